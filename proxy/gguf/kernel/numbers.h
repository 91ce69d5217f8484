/* Single numbers: halves, the nearest integer, what ggml's blocks are packed from. */

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline, unused))
#define NOTHING 1e-15f     /* a sub-block of less than this is all zero */
#define ROUNDER 12582912.f /* 1.5 * 2^23: what is added to it is rounded to an integer, in its lower bits */

enum { CHUNK = 1024 }; /* numbers looked at in one go: four registers of 16 sub-blocks of 16 */

/* What was found for the sub-blocks of a chunk. */
struct found {
    float scale[CHUNK / 16], min[CHUNK / 16];
    float inverse[CHUNK / 16], base[CHUNK / 16]; /* of the try that was the best */
    int32_t flat[CHUNK / 16];                    /* not 0: there was nothing to look for */
    uint8_t l[CHUNK];                            /* Q3_K: the numbers themselves */
};

typedef void quantizer(const float *x, int blocks, uint8_t *out, struct found *found);

/* IQ4's values are -127, -104, -83 ... 113: from one to the next, and where the next begins to be the nearest. */
static const float IQ4_STEPS[] = {23, 21, 18, 16, 14, 13, 12, 11, 12, 12, 13, 15, 16, 20, 24};
static const float IQ4_BOUNDARIES[] = {
    -115.5f, -93.5f, -74, -57, -42, -28.5f, -16, -4.5f, 7, 19, 31.5f, 45.5f, 61, 79, 101,
};

INLINE uint32_t bits(float number) {
    uint32_t made;
    memcpy(&made, &number, sizeof made);
    return made;
}

INLINE float of_bits(uint32_t number) {
    float made;
    memcpy(&made, &number, sizeof made);
    return made;
}

/* The nearest integer, ties to even. Of what is beyond 2^22 it is what ggml's formula happens to make of the bits. */
INLINE int rounded(float number) { return (int)(bits(number + ROUNDER) & 0x7fffff) - 0x400000; }

INLINE float widened(uint16_t half) {
    uint32_t rest = half & 0x7fff, sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t normal = (rest << 13) + ((uint32_t)112 << 23), special = (rest << 13) + ((uint32_t)224 << 23);
    uint32_t small = bits(of_bits(rest | 0x3f000000) - 0.5f);
    special |= rest > 0x7c00 ? 0x400000 : 0;
    return of_bits(sign | (rest < 0x400 ? small : rest < 0x7c00 ? normal : special));
}

INLINE uint16_t halved(float number) {
    uint32_t all = bits(number), rest = all & 0x7fffffff, made;
    if (rest > 0x7f800000) made = 0x7e00;
    else if (rest >= 0x477ff000) made = 0x7c00;
    else if (rest < 0x38800000) made = bits(of_bits(rest) + 0.5f) - 0x3f000000;
    else made = (rest + 0xfff + (rest >> 13 & 1) - 0x38000000) >> 13;
    return (uint16_t)(all >> 16 & 0x8000) | (uint16_t)made;
}

/* The number as it is read again. */
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
    float found = 0, most = 0;
    for (int i = 0; i < count; i++) {
        if (fabsf(of[i]) > most) {
            most = fabsf(of[i]);
            found = of[i];
        }
    }
    return found;
}

/* Where the scale has become 0, ggml leaves the numbers as the search had them. */
INLINE void as_found(
    const float *x, uint8_t *l, int size, const struct found *found, int which, int least, int most
) {
    for (int i = 0; i < size; i++) {
        int n = rounded(found->inverse[which] * (x[i] - found->base[which]));
        l[i] = found->flat[which] ? 0 : (uint8_t)((n < least ? least : n > most ? most : n) - least);
    }
}

/* Four numbers of two bits in a byte. */
INLINE void pack_pairs(const uint8_t *l, uint8_t *out) {
    for (int j = 0; j < 256; j += 128) {
        for (int i = 0; i < 32; i++) {
            const uint8_t *from = l + j + i;
            out[j / 4 + i] = (uint8_t)(from[0] | from[32] << 2 | from[64] << 4 | from[96] << 6);
        }
    }
}
