/* Quantizes LANES sub-blocks in parallel. Included once for each width, with LANES, NAMED() and the hooks defined.
 *
 * ggml searches the best scale for one sub-block of 32 or 16 numbers after another. Here each lane of a register has
 * its own sub-block and repeats ggml's operations in ggml's order: never split a sum, never fuse a product. */

#define F NAMED(floats)
#define I NAMED(ints)
typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));

/* ---- Operations on registers ---- */

#ifdef LOWER
INLINE F NAMED(lower)(F a, F b) { return (F)LOWER(a, b); }
INLINE F NAMED(higher)(F a, F b) { return (F)HIGHER(a, b); }
#else
INLINE F NAMED(lower)(F a, F b) { I mask = a < b; return (F)(((I)a & mask) | ((I)b & ~mask)); }
INLINE F NAMED(higher)(F a, F b) { I mask = a > b; return (F)(((I)a & mask) | ((I)b & ~mask)); }
#endif

#ifdef PICK
INLINE F NAMED(pick)(I mask, F yes, F no) { return (F)PICK(mask, yes, no); }
#else
INLINE F NAMED(pick)(I mask, F yes, F no) { return (F)(((I)yes & mask) | ((I)no & ~mask)); }
#endif

INLINE F NAMED(same)(float number) { return number - (F){0}; } /* number + 0 would turn -0 into 0 */
INLINE F NAMED(magnitude)(F v) { return (F)((I)v & 0x7fffffff); }

INLINE F NAMED(row)(const float *from) {
    F v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE F NAMED(column)(const float *from, int size) {
    float lane[LANES];
    for (int k = 0; k < LANES; k++) lane[k] = from[k * size];
    return NAMED(row)(lane);
}

INLINE bool NAMED(any)(I mask) {
    int32_t lane[LANES], seen = 0;
    memcpy(lane, &mask, sizeof lane);
    for (int k = 0; k < LANES; k++) seen |= lane[k];
    return seen;
}

/* Like `rounded`, but returns a float: 0x4b000000 is 2^23, where one unit is the lowest bit. */
INLINE F NAMED(nearest)(F v, float least, float most) {
    F l = (F)(((I)(v + ROUNDER) & 0x7fffff) | 0x4b000000) - ROUNDER;
    return NAMED(lower)(NAMED(higher)(l, NAMED(same)(least)), NAMED(same)(most));
}

/* Starts at `first` and adds a step for each boundary that v is not below. A NaN is below none, as in ggml. */
INLINE F NAMED(climb)(F v, float first, const float *steps) {
#ifdef CLIMB
    return (F)CLIMB(v, first, steps);
#else
    F sum = NAMED(same)(first);
    for (int k = 0; k < 15; k++) sum += (F)((I)NAMED(same)(steps[k]) & ~(v < IQ4_BOUNDARIES[k]));
    return sum;
#endif
}

/* ---- Searches for the best scales ---- */

/* Finds a scale and a minimum for each sub-block of `size` numbers, quantized to 0..most: Q2_K, Q4_K, Q5_K. */
INLINE void NAMED(search_with_minimum)(
    const float *from, struct results *results, int at, int size, int most, float start, int tries, bool absolute
) {
    F x[32], w[32], tried[32];
    for (int i = 0; i < size; i++) x[i] = NAMED(column)(from + at * size + i, size);
    F average = {0};
    if (!absolute) {
        for (int i = 0; i < size; i++) average += x[i] * x[i];
        average = average / (float)size;
        for (int k = 0; k < LANES; k++) average[k] = sqrtf(average[k]);
    }
    for (int i = 0; i < size; i++) w[i] = absolute ? NAMED(magnitude)(x[i]) : average + NAMED(magnitude)(x[i]);

    F min = x[0], max = x[0], sum_w = w[0], sum_x = sum_w * x[0];
    for (int i = 1; i < size; i++) {
        min = NAMED(pick)(x[i] < min, x[i], min);
        max = NAMED(pick)(x[i] > max, x[i], max);
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    const F zero = {0};
    min = NAMED(pick)(min > zero, zero, min);
    const I flat = max == min;
    const F first = min;

    F inverse = (float)most / (max - min), scale = 1.f / inverse, best = zero, kept = inverse, base = min;
    for (int i = 0; i < size; i++) {
        F off = scale * NAMED(nearest)(inverse * (x[i] - min), 0, most) + min - x[i];
        best += w[i] * (absolute ? NAMED(magnitude)(off) : off * off);
    }
    for (int try = 0; try <= tries; try++) {
        inverse = (start + 0.1f * try + most) / (max - min);
        F sum_l = zero, sum_l2 = zero, sum_xl = zero;
        for (int i = 0; i < size; i++) {
            F l = tried[i] = NAMED(nearest)(inverse * (x[i] - min), 0, most), wl = w[i] * l;
            sum_l += wl;
            sum_l2 += wl * l;
            sum_xl += wl * x[i];
        }
        F determinant = sum_w * sum_l2 - sum_l * sum_l;
        F this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        F this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        I positive = this_min > zero;
        this_scale = NAMED(pick)(positive, sum_xl / sum_l2, this_scale);
        this_min = NAMED(pick)(positive, zero, this_min);
        F error = zero;
        for (int i = 0; i < size; i++) {
            F off = this_scale * tried[i] + this_min - x[i];
            error += w[i] * (absolute ? NAMED(magnitude)(off) : off * off);
        }
        I better = (determinant > zero) & (error < best);
        best = NAMED(pick)(better, error, best);
        scale = NAMED(pick)(better, this_scale, scale);
        kept = NAMED(pick)(better, inverse, kept);
        base = NAMED(pick)(better, min, base);
        min = NAMED(pick)(better, this_min, min); /* the next try starts from it, as in ggml */
    }
    scale = NAMED(pick)(flat, zero, scale);
    min = -NAMED(pick)(flat, first, min);
    memcpy(results->scale + at, &scale, sizeof scale);
    memcpy(results->min + at, &min, sizeof min);
    memcpy(results->inverse + at, &kept, sizeof kept);
    memcpy(results->base + at, &base, sizeof base);
    memcpy(results->flat + at, &flat, sizeof flat);
}

INLINE F NAMED(furthest)(const F *x, int size, F *magnitude) {
    F max = {0}, most = {0};
    for (int i = 0; i < size; i++) {
        F a = NAMED(magnitude)(x[i]);
        max = NAMED(pick)(a > most, x[i], max);
        most = NAMED(pick)(a > most, a, most);
    }
    *magnitude = most;
    return max;
}

/* Finds a scale for each 16 numbers, quantized to -32..31: Q6_K. */
INLINE void NAMED(search_signed)(const float *from, struct results *results, int at) {
    F x[16], w[16], wx[16], magnitude;
    for (int i = 0; i < 16; i++) {
        x[i] = NAMED(column)(from + at * 16 + i, 16);
        w[i] = x[i] * x[i];
        wx[i] = w[i] * x[i];
    }
    const F zero = {0}, max = NAMED(furthest)(x, 16, &magnitude);
    const I flat = magnitude < NOTHING;
    F scale = zero, best = zero, kept = zero;
    for (int try = -10; try <= 9; try++) {
        if (try == 0) continue;
        F inverse = (try == -10 ? -32.f : -(32 + 0.1f * try)) / max; /* ggml first tries the scale without a change */
        F sum_lx = zero, sum_l2 = zero;
        for (int i = 0; i < 16; i++) {
            F l = NAMED(nearest)(inverse * x[i], -32, 31);
            sum_lx += wx[i] * l;
            sum_l2 += w[i] * l * l;
        }
        F this_scale = sum_lx / sum_l2;
        I better = (sum_l2 > zero) & (sum_lx * sum_lx > best * sum_l2);
        if (try == -10) {
            this_scale = NAMED(pick)(sum_l2 != zero, this_scale, zero);
            better = ~(I){0};
        }
        scale = NAMED(pick)(better, this_scale, scale);
        best = NAMED(pick)(better, this_scale * sum_lx, best);
        kept = NAMED(pick)(better, inverse, kept);
    }
    scale = NAMED(pick)(flat, zero, scale);
    memcpy(results->scale + at, &scale, sizeof scale);
    memcpy(results->inverse + at, &kept, sizeof kept);
    memcpy(results->base + at, &zero, sizeof zero);
    memcpy(results->flat + at, &flat, sizeof flat);
}

/* Finds a scale for each 16 numbers, quantized to -4..3, and improves one number at a time: Q3_K. Each number waits for
 * the one before it, so several registers work in parallel too. */
INLINE void NAMED(search_one_by_one)(const float *from, struct results *results, int at) {
    enum { REGISTERS = 4 };
    const F zero = {0};
    F x[16][REGISTERS], l[16][REGISTERS], sum_lx[REGISTERS], sum_l2[REGISTERS];
    I flat[REGISTERS];
    for (int r = 0; r < REGISTERS; r++) {
        F column[16], magnitude;
        for (int i = 0; i < 16; i++) column[i] = x[i][r] = NAMED(column)(from + (at + r * LANES) * 16 + i, 16);
        F inverse = -4.f / NAMED(furthest)(column, 16, &magnitude);
        flat[r] = magnitude < NOTHING;
        sum_lx[r] = sum_l2[r] = zero;
        for (int i = 0; i < 16; i++) {
            F w = x[i][r] * x[i][r], n = l[i][r] = NAMED(nearest)(inverse * x[i][r], -4, 3);
            sum_lx[r] += w * x[i][r] * n;
            sum_l2[r] += w * n * n;
        }
    }
    /* ggml stops a sub-block after a pass without a change: another pass would change nothing either. */
    I changed = ~(I){0};
    for (int pass = 0; pass < 5 && NAMED(any)(changed); pass++) {
        changed = (I){0};
        for (int i = 0; i < 16; i++) {
            for (int r = 0; r < REGISTERS; r++) {
                F number = x[i][r], old = l[i][r], w = number * number, wx = w * number;
                F lx = sum_lx[r] - wx * old, l2 = sum_l2[r] - w * old * old;
                F new = NAMED(nearest)(number * l2 / lx, -4, 3);
                I better = (lx > zero) & (new != old);
                lx += wx * new;
                l2 += w * new * new;
                better &= (l2 > zero) & (lx * lx * sum_l2[r] > sum_lx[r] * sum_lx[r] * l2);
                l[i][r] = NAMED(pick)(better, new, old);
                sum_lx[r] = NAMED(pick)(better, lx, sum_lx[r]);
                sum_l2[r] = NAMED(pick)(better, l2, sum_l2[r]);
                changed |= better & ~flat[r];
            }
        }
    }
    for (int r = 0; r < REGISTERS; r++) {
        F scale = NAMED(pick)((sum_l2[r] > zero) & ~flat[r], sum_lx[r] / sum_l2[r], zero);
        memcpy(results->scale + at + r * LANES, &scale, sizeof scale);
        for (int i = 0; i < 16; i++) {
            F shifted = NAMED(pick)(flat[r], zero, l[i][r] + 4.f);
            for (int k = 0; k < LANES; k++) results->l[(at + r * LANES + k) * 16 + i] = (uint8_t)shifted[k];
        }
    }
}

/* Finds a scale for each 32 numbers, quantized to 16 values: IQ4_NL, IQ4_XS. */
INLINE void NAMED(search_values)(const float *from, struct results *results, int at) {
    F x[32], w[32], magnitude;
    for (int i = 0; i < 32; i++) {
        x[i] = NAMED(column)(from + at * 32 + i, 32);
        w[i] = x[i] * x[i];
    }
    const F zero = {0}, max = NAMED(furthest)(x, 32, &magnitude);
    F scale = zero, best = zero;
    for (int try = -8; try <= 7; try++) {
        F inverse = try == -8 ? 1.f / (-max / -127.f) : (float)(try - 127) / max;
        F sum_qx = zero, sum_q2 = zero;
        for (int i = 0; i < 32; i++) {
            F q = NAMED(climb)(inverse * x[i], -127, IQ4_STEPS), wq = w[i] * q;
            sum_qx += wq * x[i];
            sum_q2 += wq * q;
        }
        F this_scale = sum_qx / sum_q2;
        I better = (sum_q2 > zero) & (sum_qx * sum_qx > best * sum_q2);
        if (try == -8) {
            this_scale = NAMED(pick)(sum_q2 > zero, this_scale, zero);
            better = ~(I){0};
        }
        scale = NAMED(pick)(better, this_scale, scale);
        best = NAMED(pick)(better, this_scale * sum_qx, best);
    }
    scale = NAMED(pick)(magnitude < NOTHING, zero, scale);
    memcpy(results->scale + at, &scale, sizeof scale);
}

/* ---- Quantizing a sub-block by its scale ---- */

INLINE void NAMED(divided)(const float *x, uint8_t *l, int size, float plus, float by, int least, int most) {
    for (int i = 0; i < size; i++) {
        int n = rounded((x[i] + plus) / by);
        l[i] = (uint8_t)((n < least ? least : n > most ? most : n) - least);
    }
}

INLINE void NAMED(nearest_values)(const float *x, uint8_t *l, float inverse) {
    static const float ones[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    for (int i = 0; i < 32; i += LANES) {
        I index = __builtin_convertvector(NAMED(climb)(inverse * NAMED(row)(x + i), 0, ones), I);
        for (int k = 0; k < LANES; k++) l[i + k] = (uint8_t)index[k];
    }
}

/* ---- Blocks by type ---- */

static void NAMED(q2_k)(const float *x, int blocks, uint8_t *out, struct results *results) {
    for (int at = 0; at < blocks * 16; at += LANES) NAMED(search_with_minimum)(x, results, at, 16, 3, -0.5f, 15, true);
    for (int b = 0; b < blocks; b++, x += 256, out += 84) {
        const float *scale = results->scale + b * 16, *min = results->min + b * 16;
        float max_scale = greatest(scale, 16), max_min = greatest(min, 16);
        float d = put_half(out + 80, max_scale / 15.f), dmin = put_half(out + 82, max_min / 15.f);
        uint8_t l[256];
        for (int j = 0; j < 16; j++) {
            out[j] = max_scale > 0 ? (uint8_t)rounded(15.f / max_scale * scale[j]) : 0;
            if (max_min > 0) out[j] |= (uint8_t)(rounded(15.f / max_min * min[j]) * 16);
            float by = d * (out[j] & 15), plus = dmin * (out[j] >> 4);
            if (by) NAMED(divided)(x + j * 16, l + j * 16, 16, plus, by, 0, 3);
            else from_search(x + j * 16, l + j * 16, 16, results, b * 16 + j, 0, 3);
        }
        pack_pairs(l, out + 16);
    }
}

static void NAMED(q3_k)(const float *x, int blocks, uint8_t *out, struct results *results) {
    for (int at = 0; at < blocks * 16; at += 4 * LANES) NAMED(search_one_by_one)(x, results, at);
    for (int b = 0; b < blocks; b++, x += 256, out += 110) {
        uint8_t *l = results->l + b * 256, *scales = out + 96;
        const float *scale = results->scale + b * 16;
        memset(out, 0, 110);
        float max_scale = furthest_of(scale, 16), inverse = -32.f / max_scale;
        float d = put_half(out + 108, max_scale ? 1 / inverse : 0);
        for (int j = 0; j < 16; j++) {
            int s = 0;
            if (max_scale) {
                s = (int8_t)rounded(inverse * scale[j]);
                s = (s < -32 ? -32 : s > 31 ? 31 : s) + 32;
            }
            scales[j % 8] |= (uint8_t)((s & 15) << (j < 8 ? 0 : 4));
            scales[8 + j % 4] |= (uint8_t)(s >> 4 << 2 * (j / 4));
            float by = d * (s - 32);
            if (by) NAMED(divided)(x + j * 16, l + j * 16, 16, -0.f, by, -4, 3);
        }
        for (int j = 0; j < 256; j++) out[j % 32] |= (uint8_t)((l[j] >> 2) << j / 32);
        for (int j = 0; j < 256; j++) l[j] &= 3;
        pack_pairs(l, out + 32);
    }
}

INLINE void NAMED(with_six_bits)(const float *x, int blocks, uint8_t *out, struct results *results, int most) {
    const int size = most == 15 ? 144 : 176;
    for (int b = 0; b < blocks; b++, x += 256, out += size) {
        const float *scale = results->scale + b * 8, *min = results->min + b * 8;
        float max_scale = greatest(scale, 8), max_min = greatest(min, 8);
        float to_scale = max_scale > 0 ? 63.f / max_scale : 0, to_min = max_min > 0 ? 63.f / max_min : 0;
        float d = put_half(out, max_scale / 63.f), dmin = put_half(out + 2, max_min / 63.f);
        uint8_t l[256], *scales = out + 4, *low = out + size - 128;
        memset(scales, 0, 12);
        for (int j = 0; j < 8; j++) {
            uint8_t s = (uint8_t)rounded(to_scale * scale[j]), m = (uint8_t)rounded(to_min * min[j]);
            s = s < 63 ? s : 63;
            m = m < 63 ? m : 63;
            if (j < 4) {
                scales[j] = s;
                scales[j + 4] = m;
            } else {
                scales[j + 4] = (uint8_t)((s & 15) | m << 4);
                scales[j - 4] |= (uint8_t)(s >> 4 << 6);
                scales[j] |= (uint8_t)(m >> 4 << 6);
            }
            float by = d * s, plus = dmin * m;
            if (by) NAMED(divided)(x + j * 32, l + j * 32, 32, plus, by, 0, most);
            else from_search(x + j * 32, l + j * 32, 32, results, b * 8 + j, 0, most);
        }
        if (most == 31) memset(out + 16, 0, 32);
        for (int j = 0; j < 256; j += 64) {
            for (int i = 0; i < 32; i++) {
                uint8_t one = l[j + i], two = l[j + 32 + i];
                low[j / 2 + i] = (uint8_t)((one & 15) | two << 4);
                if (most == 31) out[16 + i] |= (uint8_t)((one >> 4 | two >> 4 << 1) << j / 32);
            }
        }
    }
}

static void NAMED(q4_k)(const float *x, int blocks, uint8_t *out, struct results *results) {
    for (int at = 0; at < blocks * 8; at += LANES) NAMED(search_with_minimum)(x, results, at, 32, 15, -1.f, 20, false);
    NAMED(with_six_bits)(x, blocks, out, results, 15);
}

static void NAMED(q5_k)(const float *x, int blocks, uint8_t *out, struct results *results) {
    for (int at = 0; at < blocks * 8; at += LANES) NAMED(search_with_minimum)(x, results, at, 32, 31, -0.5f, 15, false);
    NAMED(with_six_bits)(x, blocks, out, results, 31);
}

static void NAMED(q6_k)(const float *x, int blocks, uint8_t *out, struct results *results) {
    for (int at = 0; at < blocks * 16; at += LANES) NAMED(search_signed)(x, results, at);
    for (int b = 0; b < blocks; b++, x += 256, out += 210) {
        const float *scale = results->scale + b * 16;
        float max_scale = furthest_of(scale, 16), inverse = -128.f / max_scale;
        if (fabsf(max_scale) < NOTHING) {
            memset(out, 0, 210);
            continue;
        }
        float d = put_half(out + 208, 1 / inverse);
        uint8_t l[256];
        for (int j = 0; j < 16; j++) {
            int s = rounded(inverse * scale[j]);
            out[192 + j] = (uint8_t)(s < 127 ? s : 127);
            float by = d * (int8_t)out[192 + j];
            if (by) NAMED(divided)(x + j * 16, l + j * 16, 16, -0.f, by, -32, 31);
            else from_search(x + j * 16, l + j * 16, 16, results, b * 16 + j, -32, 31);
        }
        for (int half = 0; half < 2; half++) {
            const uint8_t *from = l + half * 128;
            uint8_t *low = out + half * 64, *high = out + 128 + half * 32;
            for (int i = 0; i < 32; i++) {
                uint8_t q0 = from[i], q1 = from[32 + i], q2 = from[64 + i], q3 = from[96 + i];
                low[i] = (uint8_t)((q0 & 15) | q2 << 4);
                low[32 + i] = (uint8_t)((q1 & 15) | q3 << 4);
                high[i] = (uint8_t)(q0 >> 4 | q1 >> 4 << 2 | q2 >> 4 << 4 | q3 >> 4 << 6);
            }
        }
    }
}

static void NAMED(iq4_nl)(const float *x, int blocks, uint8_t *out, struct results *results) {
    for (int at = 0; at < blocks; at += LANES) NAMED(search_values)(x, results, at);
    for (int b = 0; b < blocks; b++, x += 32, out += 18) {
        float scale = results->scale[b];
        uint8_t l[32];
        put_half(out, scale);
        NAMED(nearest_values)(x, l, scale ? 1 / scale : 0);
        for (int i = 0; i < 16; i++) out[2 + i] = (uint8_t)(l[i] | l[16 + i] << 4);
    }
}

static void NAMED(iq4_xs)(const float *x, int blocks, uint8_t *out, struct results *results) {
    for (int at = 0; at < blocks * 8; at += LANES) NAMED(search_values)(x, results, at);
    for (int b = 0; b < blocks; b++, x += 256, out += 136) {
        const float *scale = results->scale + b * 8;
        float d = -furthest_of(scale, 8) / 32, inverse = d ? 1 / d : 0;
        put_half(out, d);
        memset(out + 2, 0, 6);
        for (int j = 0; j < 8; j++) {
            int s = rounded(inverse * scale[j]);
            s = s < -32 ? -32 : s > 31 ? 31 : s;
            float by = d * s;
            uint8_t l[32];
            NAMED(nearest_values)(x + j * 32, l, by ? 1 / by : 0);
            for (int i = 0; i < 16; i++) out[8 + j * 16 + i] = (uint8_t)(l[i] | l[16 + i] << 4);
            s += 32;
            out[4 + j / 2] |= (uint8_t)((s & 15) << j % 2 * 4);
            out[2 + j / 4] |= (uint8_t)(s >> 4 << j % 4 * 2);
        }
    }
}

/* In the order of KINDS in module.c. */
static quantizer *const NAMED(quantizers)[] = {
    NAMED(q2_k), NAMED(q3_k), NAMED(q4_k), NAMED(q5_k), NAMED(q6_k), NAMED(iq4_nl), NAMED(iq4_xs),
};

#undef F
#undef I
#undef LANES
#undef NAMED
#undef LOWER
#undef HIGHER
#undef PICK
#undef CLIMB
