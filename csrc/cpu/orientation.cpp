// Depthwise convolution over the orientations at every point, and its derivative in the kernel.
#include "common.h"

namespace ponita {

// out[n,p,c] = (1/O) sum_o kernel[o,p,c] x[n,o,c] for nodes [begin, end).
template <class T>
PONITA_INLINE void conv_nodes(const T *x, const T *kernel, Row row, T *out, int64_t begin, int64_t end) {
    const int64_t orientations = row.orientations, channels = row.channels;
    const T scale = T(1) / static_cast<T>(orientations);
    for (int64_t n = begin; n < end; ++n)
        for (int64_t p = 0; p < orientations; ++p) {
            T *RESTRICT y = out + n * row.size() + p * channels;
            for (int64_t c = 0; c < channels; ++c) y[c] = 0;
            for (int64_t o = 0; o < orientations; ++o) {
                const T *RESTRICT k = kernel + (o * orientations + p) * channels;
                const T *RESTRICT v = x + n * row.size() + o * channels;
                for (int64_t c = 0; c < channels; ++c) y[c] += k[c] * v[c];
            }
            for (int64_t c = 0; c < channels; ++c) y[c] *= scale;
        }
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
