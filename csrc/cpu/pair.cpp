// The pair family: depthwise convolution with a stored kernel row for every pair, and its derivative in the kernel.
//
// Threads share out the columns (o, c) of a feature row together with their opposites (o + O/2, c). A pair touches
// equal columns and opposite ones, so every thread writes columns of its own for all nodes: no atomics, and sums in
// one fixed order.
#include "common.h"

namespace ponita {

// out[q] += k[q] x[q] on n contiguous columns.
template <class T>
PONITA_INLINE void multiply_add(T *RESTRICT out, const T *RESTRICT k, const T *RESTRICT x, int64_t n) {
    for (int64_t q = 0; q < n; ++q) out[q] += k[q] * x[q];
}

// Columns [begin, end) of the first half of a row, and their opposites `half` further on (half = 0: no directions).
template <class T>
PONITA_INLINE void pair_conv_columns(const T *x, const T *kernel, Pairs pairs, Row row, T *out, int64_t begin,
                                     int64_t end) {
    const int64_t size = row.size(), half = row.orientations == 1 ? 0 : size / 2, n = end - begin;
    for (int64_t p = 0; p < pairs.count; ++p) {
        const T *k = kernel + p * size + begin;
        const int64_t s = pairs.sender[p] * size + begin, r = pairs.receiver[p] * size + begin;
        multiply_add(out + r, k, x + s, n);
        if (half) multiply_add(out + r + half, k + half, x + s + half, n);
        if (p >= pairs.two_way) continue;
        multiply_add(out + s, k + half, x + r, n);
        if (half) multiply_add(out + s + half, k, x + r + half, n);
    }
}

// All columns of an odd grid: one-sided graphs only, so there are no opposites.
template <class T>
PONITA_INLINE void single_conv_columns(const T *x, const T *kernel, Pairs pairs, Row row, T *out, int64_t begin,
                                       int64_t end) {
    const int64_t size = row.size();
    for (int64_t p = 0; p < pairs.count; ++p)
        multiply_add(out + pairs.receiver[p] * size + begin, kernel + p * size + begin,
                     x + pairs.sender[p] * size + begin, end - begin);
}

template <class T>
PONITA_INLINE void pair_product_rows(const T *x, const T *g, Pairs pairs, Row row, T *out, int64_t begin,
                                     int64_t end) {
    const int64_t size = row.size(), half = row.orientations == 1 ? 0 : size / 2, first = half ? half : size;
    for (int64_t p = begin; p < end; ++p) {
        const int64_t s = pairs.sender[p] * size, r = pairs.receiver[p] * size;
        T *RESTRICT o = out + p * size;
        for (int64_t q = 0; q < size; ++q) o[q] = x[s + q] * g[r + q];
        if (p >= pairs.two_way) continue;
        multiply_add(o, x + r + half, g + s + half, first);
        if (half) multiply_add(o + half, x + r, g + s, half);
    }
}


}  // namespace ponita

using namespace ponita;

#define DEFINE_PAIR(T, SUFFIX)                                                                                        \
    PONITA_DISPATCH static void conv_two_##SUFFIX(const T *x, const T *k, Pairs p, Row row, T *out, int64_t b,        \
                                                  int64_t e) {                                                       \
        pair_conv_columns(x, k, p, row, out, b, e);                                                                   \
    }                                                                                                                 \
    PONITA_DISPATCH static void conv_one_##SUFFIX(const T *x, const T *k, Pairs p, Row row, T *out, int64_t b,        \
                                                  int64_t e) {                                                       \
        single_conv_columns(x, k, p, row, out, b, e);                                                                 \
    }                                                                                                                 \
    PONITA_DISPATCH static void product_##SUFFIX(const T *x, const T *g, Pairs p, Row row, T *out, int64_t b,         \
                                                 int64_t e) {                                                        \
        pair_product_rows(x, g, p, row, out, b, e);                                                                   \
    }                                                                                                                 \
    PONITA_EXPORT void ponita_pair_conv_##SUFFIX(const T *x, const T *k, const int64_t *sender,                       \
                                                 const int64_t *receiver, int64_t count, int64_t two_way,             \
                                                 int64_t orientations, int64_t channels, T *out, int threads) {       \
        const Pairs pairs{sender, receiver, count, two_way};                                                          \
        const Row row{orientations, channels};                                                                        \
        const bool opposites = two_way > 0;                                                                           \
        parallel(opposites && orientations > 1 ? row.size() / 2 : row.size(), threads, [&](int64_t b, int64_t e) {    \
            opposites ? conv_two_##SUFFIX(x, k, pairs, row, out, b, e) : conv_one_##SUFFIX(x, k, pairs, row, out, b, e); \
        });                                                                                                           \
    }                                                                                                                 \
    PONITA_EXPORT void ponita_pair_product_##SUFFIX(const T *x, const T *g, const int64_t *sender,                    \
                                                    const int64_t *receiver, int64_t count, int64_t two_way,          \
                                                    int64_t orientations, int64_t channels, T *out, int threads) {    \
        const Pairs pairs{sender, receiver, count, two_way};                                                          \
        const Row row{orientations, channels};                                                                        \
        parallel(count, threads, [&](int64_t b, int64_t e) { product_##SUFFIX(x, g, pairs, row, out, b, e); });       \
    }

DEFINE_PAIR(float, f32)
DEFINE_PAIR(double, f64)
