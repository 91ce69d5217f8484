/* SHA-256 (FIPS 180-4) over whole blocks of 64 bytes, for a hash whose state can be saved. */

#ifndef SHA256_H
#define SHA256_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { SHA256_BLOCK = 64, SHA256_WORDS = 8 };

static const uint32_t SHA256_ROUNDS[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static inline uint32_t sha256_rotated(uint32_t x, int by) { return x >> by | x << (32 - by); }

/* One round. The eight words keep their places: the caller names them one place further each time. */
static inline void sha256_round(
    uint32_t a, uint32_t b, uint32_t c, uint32_t *d, uint32_t e, uint32_t f, uint32_t g, uint32_t *h, uint32_t round
) {
    uint32_t first = *h + (sha256_rotated(e, 6) ^ sha256_rotated(e, 11) ^ sha256_rotated(e, 25)) +
                     (g ^ (e & (f ^ g))) + round;
    *d += first;
    *h = first + (sha256_rotated(a, 2) ^ sha256_rotated(a, 13) ^ sha256_rotated(a, 22)) + ((a & (b | c)) | (b & c));
}

static void sha256_generic(uint32_t state[SHA256_WORDS], const uint8_t *from, size_t blocks) {
    for (; blocks; blocks--, from += SHA256_BLOCK) {
        uint32_t w[64], s[SHA256_WORDS];
        for (int i = 0; i < 16; i++) {
            const uint8_t *b = from + 4 * i;
            w[i] = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
        }
        for (int i = 16; i < 64; i++) {
            uint32_t near = w[i - 2], far = w[i - 15];
            w[i] = w[i - 16] + w[i - 7] + (sha256_rotated(far, 7) ^ sha256_rotated(far, 18) ^ far >> 3) +
                   (sha256_rotated(near, 17) ^ sha256_rotated(near, 19) ^ near >> 10);
        }
        memcpy(s, state, sizeof s);
        for (int i = 0; i < 64; i += 8) {
#define ROUND(a, b, c, d, e, f, g, h, j) \
    sha256_round(s[a], s[b], s[c], s + d, s[e], s[f], s[g], s + h, SHA256_ROUNDS[i + j] + w[i + j])
            ROUND(0, 1, 2, 3, 4, 5, 6, 7, 0);
            ROUND(7, 0, 1, 2, 3, 4, 5, 6, 1);
            ROUND(6, 7, 0, 1, 2, 3, 4, 5, 2);
            ROUND(5, 6, 7, 0, 1, 2, 3, 4, 3);
            ROUND(4, 5, 6, 7, 0, 1, 2, 3, 4);
            ROUND(3, 4, 5, 6, 7, 0, 1, 2, 5);
            ROUND(2, 3, 4, 5, 6, 7, 0, 1, 6);
            ROUND(1, 2, 3, 4, 5, 6, 7, 0, 7);
#undef ROUND
        }
        for (int i = 0; i < SHA256_WORDS; i++) state[i] += s[i];
    }
}

#if defined(__x86_64__)

/* The instructions keep the words in the order {a, b, e, f} and {c, d, g, h}, the first one in the highest lane. */
#if defined(__clang__)
__attribute__((target("sha,sse4.1,ssse3")))
#else
__attribute__((target("sha,sse4.1")))
#endif
static void sha256_x86(uint32_t state[SHA256_WORDS], const uint8_t *from, size_t blocks) {
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i abef = _mm_set_epi32((int)state[0], (int)state[1], (int)state[4], (int)state[5]);
    __m128i cdgh = _mm_set_epi32((int)state[2], (int)state[3], (int)state[6], (int)state[7]);
    for (; blocks; blocks--, from += SHA256_BLOCK) {
        __m128i w[4], abef_before = abef, cdgh_before = cdgh;
        for (int i = 0; i < 4; i++)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(from + 16 * i)), big_endian);
        for (int i = 0; i < 16; i++) {
            if (i >= 4) {
                __m128i sum = _mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]);
                sum = _mm_add_epi32(sum, _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4));
                w[i & 3] = _mm_sha256msg2_epu32(sum, w[(i + 3) & 3]);
            }
            __m128i round = _mm_add_epi32(w[i & 3], _mm_loadu_si128((const __m128i *)(const void *)(SHA256_ROUNDS + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, round);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(round, 0x0e));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    state[0] = (uint32_t)_mm_extract_epi32(abef, 3), state[1] = (uint32_t)_mm_extract_epi32(abef, 2);
    state[4] = (uint32_t)_mm_extract_epi32(abef, 1), state[5] = (uint32_t)_mm_extract_epi32(abef, 0);
    state[2] = (uint32_t)_mm_extract_epi32(cdgh, 3), state[3] = (uint32_t)_mm_extract_epi32(cdgh, 2);
    state[6] = (uint32_t)_mm_extract_epi32(cdgh, 1), state[7] = (uint32_t)_mm_extract_epi32(cdgh, 0);
}

#endif

#endif
