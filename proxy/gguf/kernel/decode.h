/* Makes F32 numbers of codes of a few bits: (number of the code - zero point) * scale. The difference and the product
 * are each rounded once. */

enum { DECODED = 512 }; /* codes to read at a time: with their numbers they stay in the nearest cache */

/* How codes lie in the bytes of a row, and what they mean. */
struct codes {
    int bits, unit;        /* after so many bytes a code begins at the first bit again */
    const uint8_t *shifts; /* if set, a unit has a code of each of `rows` rows, from these bits on */
    int rows;
    const float *numbers;
    bool are_consecutive;
};

/* The groups of columns. Each row has a scale for each group, and a zero point if `zeros` is set. */
struct groups {
    const float *scales, *zeros;
    Py_ssize_t count, columns; /* so many consecutive columns are in a group, */
    const int32_t *order;      /* unless this has the group of each column */
};

/* Moves the upper `size` bits of each 2 * `size` bits, which begin at a bit of `at`, to the middle of their place. */
INLINE uint64_t part(uint64_t word, int size, int place, uint64_t at) {
    const uint64_t lower = (((uint64_t)1 << size) - 1) * at;
    return (word & lower) | (word & lower << size) << (place / 2 - size);
}

/* Moves each of eight codes, which follow each other in `word`, to a byte of its own. */
INLINE uint64_t spread(uint64_t word, int bits) {
    word = part(word, 4 * bits, 64, 1);
    word = part(word, 2 * bits, 32, 0x0000000100000001);
    return part(word, bits, 16, 0x0001000100010001);
}

/* Up to eight bytes; those after `left` are 0. */
INLINE uint64_t bytes_of(const uint8_t *from, Py_ssize_t left) {
    uint64_t word = 0;
    memcpy(&word, from, left < 8 ? (size_t)left : 8);
    return word;
}

/* Codes without gaps between them. Writes up to seven more than `count`. */
INLINE void read_dense(const uint8_t *from, Py_ssize_t left, int bits, int count, uint8_t *codes) {
    for (int i = 0; i < count; i += 8, from += bits, left -= bits) {
        uint64_t word;
        if (left < 8) word = bytes_of(from, left);
        else memcpy(&word, from, 8);
        word = spread(word, bits);
        memcpy(codes + i, &word, 8);
    }
}

static void read_units(const uint8_t *from, Py_ssize_t left, int unit, int bits, int count, uint8_t *codes) {
    const int each = 8 * unit / bits;
    for (int i = 0; i < count; i += each, from += unit, left -= unit) {
        const uint64_t word = bytes_of(from, left);
        for (int k = 0; k < each; k++) codes[i + k] = (uint8_t)(word >> k * bits & ((1u << bits) - 1));
    }
}

/* Reads `count` codes, which begin at a unit. The row has `left` bytes, which may end within its last unit. */
static void read_codes(const struct codes *form, const uint8_t *from, Py_ssize_t left, int count, uint8_t *codes) {
    if (form->bits == 8) memcpy(codes, from, (size_t)count);
    else if (8 * form->unit % form->bits) read_units(from, left, form->unit, form->bits, count, codes);
    else if (form->bits == 2) read_dense(from, left, 2, count, codes);
    else if (form->bits == 3) read_dense(from, left, 3, count, codes);
    else if (form->bits == 4) read_dense(from, left, 4, count, codes);
    else read_dense(from, left, form->bits, count, codes);
}

static void read_words(const uint8_t *from, int shift, int bits, int count, uint8_t *codes) {
    for (int i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, from + 4 * i, 4);
        codes[i] = (uint8_t)(word >> shift & ((1u << bits) - 1));
    }
}

/* Whether the numbers are consecutive integers: then they are calculated, which is faster than a table. */
static bool are_consecutive(const float *numbers, int count) {
    for (int i = 0; i < count; i++) {
        if (numbers[i] != numbers[0] + (float)i || fabsf(numbers[i]) > 256) return false;
    }
    return true;
}

static void scale_run(
    const struct codes *form, const uint8_t *codes, int count, float zero, float scale, float *restrict out
) {
    const float *numbers = form->numbers, first = numbers[0];
    if (form->are_consecutive) {
        for (int i = 0; i < count; i++) out[i] = ((float)(int)codes[i] + first - zero) * scale;
    } else {
        for (int i = 0; i < count; i++) out[i] = (numbers[codes[i]] - zero) * scale;
    }
}

typedef float four __attribute__((vector_size(16)));
typedef double two __attribute__((vector_size(16)));

/* `pairs` has the zero point and the scale of each group; a pair is loaded at once, as if it were a double. */
static void scale_ordered(
    const struct codes *form, const uint8_t *codes, int count, const int32_t *order, const float *pairs,
    float *restrict out
) {
    const double *whole = (const double *)(const void *)pairs;
    int i = 0;
    scale_run(form, codes, count, 0, 1, out);
    for (; i + 4 <= count; i += 4, order += 4) {
        four first = (four)(two){whole[order[0]], whole[order[1]]}, last = (four)(two){whole[order[2]], whole[order[3]]};
        four numbers;
        memcpy(&numbers, out + i, sizeof numbers);
        numbers -= (four){first[0], first[2], last[0], last[2]};
        numbers *= (four){first[1], first[3], last[1], last[3]};
        memcpy(out + i, &numbers, sizeof numbers);
    }
    for (; i < count; i++, order++) out[i] = (out[i] - pairs[2 * *order]) * pairs[2 * *order + 1];
}

/* The numbers of the columns from `first` on. */
static void scale_groups(
    const struct codes *form, const uint8_t *codes, int count, Py_ssize_t columns, Py_ssize_t first,
    const float *pairs, float *out
) {
    for (int i = 0, now; i < count; i += now) {
        Py_ssize_t group = (first + i) / columns, left = (group + 1) * columns - first - i;
        now = left < count - i ? (int)left : count - i;
        scale_run(form, codes + i, now, pairs[2 * group], pairs[2 * group + 1], out + i);
    }
}

/* `pairs` has room for two numbers for each group. */
static void decode_rows(
    const struct codes *form, const struct groups *groups, const uint8_t *from, Py_ssize_t row_size, Py_ssize_t rows,
    Py_ssize_t width, float *pairs, float *out
) {
    const int each = form->shifts ? 1 : 8 * form->unit / form->bits, most = DECODED / each / 8 * each * 8;
    uint8_t codes[DECODED + 64];
    for (Py_ssize_t row = 0; row < rows; row++) {
        const uint8_t *own = from + row / form->rows * row_size;
        for (Py_ssize_t group = 0, at = row * groups->count; group < groups->count; group++, at++) {
            pairs[2 * group] = groups->zeros ? groups->zeros[at] : 0;
            pairs[2 * group + 1] = groups->scales[at];
        }
        for (Py_ssize_t first = 0; first < width; first += most, out += most) {
            const int count = width - first < most ? (int)(width - first) : most;
            const Py_ssize_t start = first / each * form->unit;
            if (form->shifts) read_words(own + start, form->shifts[row % form->rows], form->bits, count, codes);
            else read_codes(form, own + start, row_size - start, count, codes);
            if (groups->order) scale_ordered(form, codes, count, groups->order + first, pairs, out);
            else scale_groups(form, codes, count, groups->columns, first, pairs, out);
            if (count < most) out += count - most;
        }
    }
}
