/* The extension module `proxy.gguf._kernel`: quantizes to ggml's blocks, with the widest registers of the CPU, and makes
 * F32 numbers of weights that are stored quantized. It also hashes, because no library saves the state of a SHA-256. */

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>
#include <float.h>

#include "numbers.h"

/* A kernel with other bits than ggml would be worse than no kernel. */
#if FLT_EVAL_METHOD != 0 || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ || defined(__FAST_MATH__) || defined(__arm__)
#error "this target calculates unlike ggml on x86-64"
#endif

#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi" /* only inlined functions pass registers to each other */
#endif

/* ---- One set of functions for each width ---- */

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

#define LANES 4
#define NAMED(name) name##_sse2
#define LOWER(a, b) _mm_min_ps(a, b)
#define HIGHER(a, b) _mm_max_ps(a, b)
#include "lanes.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
#define LANES 8
#define NAMED(name) name##_avx2
#define LOWER(a, b) _mm256_min_ps(a, b)
#define HIGHER(a, b) _mm256_max_ps(a, b)
#define PICK(mask, yes, no) _mm256_blendv_ps(no, yes, (F)(mask))
#include "lanes.h"
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl")
#endif
#define LANES 16
#define NAMED(name) name##_avx512
#define LOWER(a, b) _mm512_min_ps(a, b)
#define HIGHER(a, b) _mm512_max_ps(a, b)
#include "lanes.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else

#if defined(__ARM_NEON)
#include <arm_neon.h>
#define LOWER(a, b) vminq_f32(a, b)
#define HIGHER(a, b) vmaxq_f32(a, b)
#endif
#define LANES 4
#define NAMED(name) name##_narrow
#include "lanes.h"

#endif

struct width {
    const char *name;
    quantizer *const *quantizers;
};

/* The widest first. */
static const struct width WIDTHS[] = {
#if defined(__x86_64__)
    {"avx512", quantizers_avx512},
    {"avx2", quantizers_avx2},
    {"sse2", quantizers_sse2},
#elif defined(__ARM_NEON)
    {"neon", quantizers_narrow},
#else
    {"generic", quantizers_narrow},
#endif
};

static const struct width *used;

#if defined(__x86_64__)
/* Whether the CPU has the features (cpuid) and the system saves the registers of each thread (xgetbv).
 * __builtin_cpu_supports is always 0 in a build by zig, because zig's runtime library never calls cpuid. */
static bool cpu_has(uint32_t features, uint32_t registers) {
    const uint32_t osxsave = 1u << 27; /* xgetbv is available */
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & osxsave)) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & features) != features) return false;
    __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (a & registers) == registers;
}
#endif

static bool has(const struct width *width) {
#if defined(__x86_64__)
    const uint32_t avx2 = 1u << 5, ymm = 0x6, avx512_f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, zmm = 0xe6;
    if (width->quantizers == quantizers_avx512) return cpu_has(avx2 | avx512_f_dq_bw_vl, zmm);
    if (width->quantizers == quantizers_avx2) return cpu_has(avx2, ymm);
#endif
    return width != NULL;
}

/* ---- SHA-256 ---- */

#include "sha256.h"

static void (*sha256_chosen)(uint32_t *state, const uint8_t *from, size_t blocks) = sha256_generic;

/* ---- Stored codes ---- */

#include "decode.h"

/* ---- The types ---- */

static const struct kind {
    int number, numbers, bytes;
} KINDS[] = {{10, 256, 84}, {11, 256, 110}, {12, 256, 144}, {13, 256, 176}, {14, 256, 210}, {20, 32, 18}, {23, 256, 136}};

enum { KIND_COUNT = sizeof KINDS / sizeof *KINDS };

static void widen(const char *dtype, const uint8_t *from, float *to, int count) {
    if (dtype[0] == 'B') {
        for (int i = 0; i < count; i++) {
            uint16_t half;
            memcpy(&half, from + 2 * i, 2);
            to[i] = of_bits((uint32_t)half << 16);
        }
    } else if (dtype[1] == '1') {
        for (int i = 0; i < count; i++) {
            uint16_t half;
            memcpy(&half, from + 2 * i, 2);
            to[i] = widened(half);
        }
    } else {
        memcpy(to, from, (size_t)count * 4);
    }
}

static void run(
    const struct kind *kind, quantizer *quantizer, const char *dtype, const uint8_t *from, int width, size_t blocks,
    uint8_t *out
) {
    float x[CHUNK];
    uint8_t buffer[CHUNK / 32 * 18 > CHUNK / 256 * 210 ? CHUNK / 32 * 18 : CHUNK / 256 * 210];
    struct results results;
    const size_t most = (size_t)(CHUNK / kind->numbers);
    while (blocks) {
        size_t now = blocks < most ? blocks : most;
        int count = (int)now * kind->numbers;
        widen(dtype, from, x, count);
        for (int i = count; i < CHUNK; i++) x[i] = 0; /* lanes without a sub-block get zeros */
        quantizer(x, (int)now, buffer, &results);
        memcpy(out, buffer, now * (size_t)kind->bytes);
        from += (size_t)count * (size_t)width;
        out += now * (size_t)kind->bytes;
        blocks -= now;
    }
}

/* ---- The Python interface ---- */

static PyObject *quantize(PyObject *module, PyObject *args) {
    (void)module;
    int number, at = 0;
    const char *dtype;
    Py_buffer source;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "isy*:quantize", &number, &dtype, &source)) return NULL;
    int width = !strcmp(dtype, "F32") ? 4 : !strcmp(dtype, "F16") || !strcmp(dtype, "BF16") ? 2 : 0;
    while (at < KIND_COUNT && KINDS[at].number != number) at++;
    if (at == KIND_COUNT) {
        PyErr_Format(PyExc_ValueError, "type %d is not one of those made here", number);
    } else if (!width) {
        PyErr_Format(PyExc_ValueError, "numbers of dtype %s are not read here", dtype);
    } else if (source.len % (KINDS[at].numbers * width)) {
        PyErr_Format(PyExc_ValueError, "%zd bytes are no whole blocks of %d %s", source.len, KINDS[at].numbers, dtype);
    } else {
        Py_ssize_t blocks = source.len / (KINDS[at].numbers * width);
        result = PyBytes_FromStringAndSize(NULL, blocks * KINDS[at].bytes);
        if (result) {
            uint8_t *out = (uint8_t *)PyBytes_AsString(result);
            quantizer *chosen = used->quantizers[at];
            Py_BEGIN_ALLOW_THREADS
            run(KINDS + at, chosen, dtype, source.buf, width, (size_t)blocks, out);
            Py_END_ALLOW_THREADS
        }
    }
    PyBuffer_Release(&source);
    return result;
}

/* What is wrong with the arguments of `decode`; NULL if nothing is. */
static const char *decode_problem(
    const struct codes *form, const struct groups *groups, const Py_buffer *buffers, Py_ssize_t numbers,
    Py_ssize_t row_size, Py_ssize_t width, Py_ssize_t rows
) {
    const Py_buffer *source = buffers, *scales = buffers + 1, *zeros = buffers + 2, *order = buffers + 3;
    if (form->bits < 1 || form->bits > 8 || form->unit < 1 || form->unit > 8 || numbers != 4 << form->bits)
        return "codes have 1 to 8 bits, units 1 to 8 bytes, and each code has an F32 number";
    for (int i = 0; form->shifts && i < form->rows; i++) {
        if (form->unit != 4 || form->shifts[i] + form->bits > 32) return "shifts are those of words of 32 bits";
    }
    if (width < 1 || row_size < 1 || source->len % row_size) return "the rows do not fill the source";
    Py_ssize_t each = form->shifts ? 1 : 8 * form->unit / form->bits;
    if (width / each * form->unit + (width % each * form->bits + 7) / 8 > row_size) return "a row has too few bytes";
    if (groups->count < 1 || scales->len != 4 * rows * groups->count || (zeros->buf && zeros->len != scales->len))
        return "each row has a scale for each group, and a zero point or none";
    if (!groups->order)
        return groups->columns > 0 && (width - 1) / groups->columns < groups->count ? NULL : "there are too few scales";
    if (order->len != 4 * width) return "each column has a group";
    for (Py_ssize_t i = 0; i < width; i++) {
        if (groups->order[i] < 0 || groups->order[i] >= groups->count) return "a column has a group without scales";
    }
    return NULL;
}

static PyObject *decode(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer buffers[4] = {{0}};
    Py_ssize_t row_size, width, shifts, numbers;
    struct codes form;
    struct groups groups;
    const char *table;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(
            args, "y*nn(iiy#y#)(y*z*nz*):decode", buffers, &row_size, &width, &form.bits, &form.unit, &form.shifts,
            &shifts, &table, &numbers, buffers + 1, buffers + 2, &groups.columns, buffers + 3
        ))
        return NULL;
    float all[256] = {0}, *pairs = NULL;
    memcpy(all, table, (size_t)(numbers < (Py_ssize_t)sizeof all ? numbers : (Py_ssize_t)sizeof all));
    form.rows = shifts ? (int)shifts : 1;
    form.shifts = shifts ? form.shifts : NULL;
    form.numbers = all;
    form.are_consecutive = are_consecutive(all, form.bits > 0 && form.bits < 9 ? 1 << form.bits : 0);
    Py_ssize_t rows = row_size > 0 ? buffers->len / row_size * form.rows : 0;
    groups.count = rows ? buffers[1].len / 4 / rows : 0;
    groups.scales = buffers[1].buf, groups.zeros = buffers[2].buf, groups.order = buffers[3].buf;
    const char *problem = decode_problem(&form, &groups, buffers, numbers, row_size, width, rows);
    if (problem) {
        PyErr_SetString(PyExc_ValueError, problem);
    } else if (!(pairs = PyMem_Malloc(8 * (size_t)groups.count))) {
        PyErr_NoMemory();
    } else if ((result = PyBytes_FromStringAndSize(NULL, 4 * rows * width))) {
        float *out = (float *)PyBytes_AsString(result);
        Py_BEGIN_ALLOW_THREADS
        decode_rows(&form, &groups, buffers->buf, row_size, rows, width, pairs, out);
        Py_END_ALLOW_THREADS
    }
    PyMem_Free(pairs);
    for (int i = 0; i < 4; i++) PyBuffer_Release(buffers + i);
    return result;
}

static PyObject *types(PyObject *module, PyObject *nothing) {
    (void)module, (void)nothing;
    PyObject *tuple = PyTuple_New(KIND_COUNT);
    for (int i = 0; tuple && i < KIND_COUNT; i++) {
        PyObject *number = PyLong_FromLong(KINDS[i].number);
        if (!number || PyTuple_SetItem(tuple, i, number) < 0) Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *width(PyObject *module, PyObject *nothing) {
    (void)module, (void)nothing;
    return PyUnicode_FromString(used->name);
}

static PyObject *use(PyObject *module, PyObject *args) {
    (void)module;
    const char *name;
    if (!PyArg_ParseTuple(args, "s:use", &name)) return NULL;
    for (size_t i = 0; i < sizeof WIDTHS / sizeof *WIDTHS; i++) {
        if (!strcmp(WIDTHS[i].name, name) && has(WIDTHS + i)) {
            used = WIDTHS + i;
            Py_RETURN_NONE;
        }
    }
    return PyErr_Format(PyExc_ValueError, "this CPU or build has no %s", name);
}

static PyObject *sha256(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer state, source;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*y*:sha256", &state, &source)) return NULL;
    uint32_t words[SHA256_WORDS];
    if (state.len != sizeof words || source.len % SHA256_BLOCK) {
        PyErr_Format(PyExc_ValueError, "%zd bytes are no state, or %zd bytes no whole blocks", state.len, source.len);
    } else {
        memcpy(words, state.buf, sizeof words);
        Py_BEGIN_ALLOW_THREADS
        sha256_chosen(words, source.buf, (size_t)source.len / SHA256_BLOCK);
        Py_END_ALLOW_THREADS
        result = PyBytes_FromStringAndSize((const char *)words, sizeof words);
    }
    PyBuffer_Release(&state);
    PyBuffer_Release(&source);
    return result;
}

static int start(PyObject *module) {
    (void)module;
    for (used = WIDTHS; !has(used);) used++;
#if defined(__x86_64__)
    uint32_t a, b, c, d;
    const uint32_t sha = 1u << 29;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && b & sha) sha256_chosen = sha256_x86;
#endif
    return 0;
}

static PyMethodDef METHODS[] = {
    {"quantize", quantize, METH_VARARGS, "quantize(type_number, dtype, source): the blocks of a type."},
    {"decode", decode, METH_VARARGS, "decode(source, row_size, width, codes, groups): F32 numbers of stored codes."},
    {"sha256", sha256, METH_VARARGS, "sha256(state, source): the state after whole blocks."},
    {"types", types, METH_NOARGS, "types(): the numbers of the types that the kernel makes."},
    {"width", width, METH_NOARGS, "width(): the width of the registers in use."},
    {"use", use, METH_VARARGS, "use(width): use registers of this width, for tests."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {{Py_mod_exec, (void *)start}, {0, NULL}};

static PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "proxy.gguf._kernel", "Quantizes to ggml's blocks.", 0, METHODS, SLOTS, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModuleDef_Init(&MODULE); }
