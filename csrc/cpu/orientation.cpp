// Depthwise convolution over the orientations at every point, and its derivative in the kernel.
#include "common.h"

namespace ponita {

// WIDTH channels of one receiving orientation at NODES nodes, in registers: a kernel row is read once for all of them.
template <int NODES, int WIDTH, class T>
PONITA_INLINE void conv_block(const T *RESTRICT x, const T *RESTRICT kernel, Row row, T *RESTRICT out) {
    const int64_t orientations = row.orientations, channels = row.channels;
    T sum[NODES][WIDTH] = {};
    for (int64_t o = 0; o < orientations; ++o)
        for (int n = 0; n < NODES; ++n)
            for (int q = 0; q < WIDTH; ++q)
                sum[n][q] += kernel[o * row.size() + q] * x[n * row.size() + o * channels + q];
    const T scale = T(1) / static_cast<T>(orientations);
    for (int n = 0; n < NODES; ++n)
        for (int q = 0; q < WIDTH; ++q) out[n * row.size() + q] = scale * sum[n][q];
}

template <int NODES, class T>
PONITA_INLINE void conv_group(const T *x, const T *kernel, Row row, T *out) {
    constexpr int WIDTH = 32;
    const int64_t channels = row.channels, blocked = channels / WIDTH * WIDTH;
    for (int64_t p = 0; p < row.orientations; ++p) {
        const T *k = kernel + p * channels;
        T *y = out + p * channels;
        for (int64_t c = 0; c < blocked; c += WIDTH) conv_block<NODES, WIDTH>(x + c, k + c, row, y + c);
        for (int64_t c = blocked; c < channels; ++c) conv_block<NODES, 1>(x + c, k + c, row, y + c);
    }
}

// out[n,p,c] = (1/O) sum_o kernel[o,p,c] x[n,o,c] for nodes [begin, end). A node's sum has one order, whatever its group.
template <class T>
PONITA_INLINE void conv_nodes(const T *x, const T *kernel, Row row, T *out, int64_t begin, int64_t end) {
    constexpr int NODES = 4;
    int64_t n = begin;
    for (; n + NODES <= end; n += NODES) conv_group<NODES>(x + n * row.size(), kernel, row, out + n * row.size());
    for (; n < end; ++n) conv_group<1>(x + n * row.size(), kernel, row, out + n * row.size());
}

// out[o,p,c] = (1/O) sum_n x[n,o,c] g[n,p,c] for rows o in [begin, end).
template <class T>
PONITA_INLINE void product_rows(const T *x, const T *g, int64_t nodes, Row row, T *out, int64_t begin, int64_t end) {
    const int64_t orientations = row.orientations, channels = row.channels;
    const T scale = T(1) / static_cast<T>(orientations);
    for (int64_t o = begin; o < end; ++o)
        for (int64_t p = 0; p < orientations; ++p) {
            T *RESTRICT y = out + (o * orientations + p) * channels;
            for (int64_t c = 0; c < channels; ++c) y[c] = 0;
            for (int64_t n = 0; n < nodes; ++n) {
                const T *RESTRICT v = x + n * row.size() + o * channels;
                const T *RESTRICT w = g + n * row.size() + p * channels;
                for (int64_t c = 0; c < channels; ++c) y[c] += v[c] * w[c];
            }
            for (int64_t c = 0; c < channels; ++c) y[c] *= scale;
        }
}

}  // namespace ponita

using namespace ponita;

#define DEFINE_ORIENTATION(T, SUFFIX)                                                                                 \
    PONITA_DISPATCH static void conv_##SUFFIX(const T *x, const T *k, Row row, T *out, int64_t b, int64_t e) {        \
        conv_nodes(x, k, row, out, b, e);                                                                             \
    }                                                                                                                 \
    PONITA_DISPATCH static void product_##SUFFIX(const T *x, const T *g, int64_t nodes, Row row, T *out, int64_t b,   \
                                                 int64_t e) {                                                         \
        product_rows(x, g, nodes, row, out, b, e);                                                                    \
    }                                                                                                                 \
    PONITA_EXPORT void ponita_orientation_conv_##SUFFIX(const T *x, const T *k, int64_t nodes, int64_t orientations,  \
                                                        int64_t channels, T *out, int threads) {                      \
        const Row row{orientations, channels};                                                                        \
        parallel(nodes, threads, [&](int64_t b, int64_t e) { conv_##SUFFIX(x, k, row, out, b, e); });                 \
    }                                                                                                                 \
    PONITA_EXPORT void ponita_orientation_product_##SUFFIX(const T *x, const T *g, int64_t nodes,                     \
                                                           int64_t orientations, int64_t channels, T *out,            \
                                                           int threads) {                                             \
        const Row row{orientations, channels};                                                                        \
        parallel(orientations, threads, [&](int64_t b, int64_t e) { product_##SUFFIX(x, g, nodes, row, out, b, e); });\
    }

DEFINE_ORIENTATION(float, f32)
DEFINE_ORIENTATION(double, f64)
