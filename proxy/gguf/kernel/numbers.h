/* Operations on single numbers: F16, rounding, packing. */

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline, unused))
#define NOTHING 1e-15f     /* sub-blocks of smaller numbers become zeros */
#define ROUNDER 12582912.f /* 1.5 * 2^23: adding it rounds to an integer, which is then in the lower bits */

enum { CHUNK = 1024 }; /* numbers to quantize at a time: four registers of 16 sub-blocks of 16 */

/* The results of a search, for each sub-block of a chunk. */
struct results {
    float scale[CHUNK / 16], min[CHUNK / 16];
    float inverse[CHUNK / 16], base[CHUNK / 16]; /* of the best try */
    int32_t flat[CHUNK / 16];                    /* not 0: all numbers are equal or nearly 0, so there was no search */
    uint8_t l[CHUNK];                            /* Q3_K: the numbers themselves */
};

typedef void quantizer(const float *x, int blocks, uint8_t *out, struct results *results);

/* IQ4's values are -127, -104, -83 ... 113. Steps between them, and boundaries where the nearest value changes. */
static const float IQ4_STEPS[] = {23, 21, 18, 16, 14, 13, 12, 11, 12, 12, 13, 15, 16, 20, 24};
static const float IQ4_BOUNDARIES[] = {
    -115.5f, -93.5f, -74, -57, -42, -28.5f, -16, -4.5f, 7, 19, 31.5f, 45.5f, 61, 79, 101,
};

INLINE uint32_t bits(float number) {
    uint32_t result;
    memcpy(&result, &number, sizeof result);
    return result;
}

INLINE float of_bits(uint32_t number) {
    float result;
    memcpy(&result, &number, sizeof result);
    return result;
}

/* The nearest integer, ties to even. Beyond 2^22 the result is meaningless, but the same as from ggml's formula. */
INLINE int rounded(float number) { return (int)(bits(number + ROUNDER) & 0x7fffff) - 0x400000; }

INLINE float widened(uint16_t half) {
    uint32_t rest = half & 0x7fff, sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t normal = (rest << 13) + ((uint32_t)112 << 23), special = (rest << 13) + ((uint32_t)224 << 23);
    uint32_t small = bits(of_bits(rest | 0x3f000000) - 0.5f);
    special |= rest > 0x7c00 ? 0x400000 : 0;
    return of_bits(sign | (rest < 0x400 ? small : rest < 0x7c00 ? normal : special));
}

INLINE uint16_t halved(float number) {
    uint32_t all = bits(number), rest = all & 0x7fffffff, result;
    if (rest > 0x7f800000) result = 0x7e00;
    else if (rest >= 0x477ff000) result = 0x7c00;
    else if (rest < 0x38800000) result = bits(of_bits(rest) + 0.5f) - 0x3f000000;
    else result = (rest + 0xfff + (rest >> 13 & 1) - 0x38000000) >> 13;
    return (uint16_t)(all >> 16 & 0x8000) | (uint16_t)result;
}

/* Writes an F16. Returns the number that a reader gets. */
INLINE float put_half(uint8_t *out, float number) {
    uint16_t half = halved(number);
    memcpy(out, &half, sizeof half);
    return widened(half);
}

INLINE float greatest(const float *of, int count) {
    float most = 0;
    for (int i = 0; i < count; i++) most = of[i] > most ? of[i] : most;
    return most;
}

INLINE float furthest_of(const float *of, int count) {
    float furthest = 0, most = 0;
    for (int i = 0; i < count; i++) {
        if (fabsf(of[i]) > most) {
            most = fabsf(of[i]);
            furthest = of[i];
        }
    }
    return furthest;
}

/* If the stored scale is 0, ggml keeps the numbers from the search. */
INLINE void from_search(
    const float *x, uint8_t *l, int size, const struct results *results, int which, int least, int most
) {
    for (int i = 0; i < size; i++) {
        int n = rounded(results->inverse[which] * (x[i] - results->base[which]));
        l[i] = results->flat[which] ? 0 : (uint8_t)((n < least ? least : n > most ? most : n) - least);
    }
}

/* Packs four numbers of two bits into each byte. */
INLINE void pack_pairs(const uint8_t *l, uint8_t *out) {
    for (int j = 0; j < 256; j += 128) {
        for (int i = 0; i < 32; i++) {
            const uint8_t *from = l + j + i;
            out[j / 4 + i] = (uint8_t)(from[0] | from[32] << 2 | from[64] << 4 | from[96] << 6);
        }
    }
}
