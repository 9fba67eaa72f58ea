// The spline family: the kernel of a sample (pair, orientation) is a weighted sum of the 4 x 4 rows of a table around
// its corner, so no [P, O, C] tensor exists. Trilinear in features, weights and table, like the pair family.
#include "common.h"

namespace ponita {

// The 16 weights of a sample and the table [nodes, C] they pick from: row corner + a * stride + b for a, b < 4.
struct Taps {
    const int32_t *corner;
    int64_t stride, nodes;
};

// Where the features of a sample are read and its messages added: there and back where the pair stands for two edges.
template <class T>
struct Ends {
    const T *x, *x_back;
    T *out, *out_back;
    bool two_way;
};

// WIDTH channels of one sample, in registers from the table to the sums.
template <int WIDTH, class T>
PONITA_INLINE void sample_block(const T *w, const T *RESTRICT rows, int64_t stride, int64_t channels,
                                const Ends<T> &ends, int64_t c) {
    T kernel[WIDTH];
    for (int q = 0; q < WIDTH; ++q) kernel[q] = w[0] * rows[c + q];
    for (int a = 0; a < 4; ++a)
        for (int b = 0; b < 4; ++b) {
            if (a + b == 0) continue;
            const T *RESTRICT row = rows + (a * stride + b) * channels + c;
            for (int q = 0; q < WIDTH; ++q) kernel[q] += w[4 * a + b] * row[q];
        }
    T *RESTRICT out = ends.out + c;
    for (int q = 0; q < WIDTH; ++q) out[q] += kernel[q] * ends.x[c + q];
    if (!ends.two_way) return;
    T *RESTRICT back = ends.out_back + c;
    for (int q = 0; q < WIDTH; ++q) back[q] += kernel[q] * ends.x_back[c + q];
}

// Samples beyond the cut-off have no weights at all.
template <class T>
PONITA_INLINE bool is_empty(const T *w) {
    T sum = 0;
    for (int64_t tap = 0; tap < 16; ++tap) sum += w[tap] * w[tap];
    return sum == 0;
}

// Product of the features at both ends of a sample, over channels [begin, end): the derivative in its kernel.
template <class T>
PONITA_INLINE void sample_product(const T *x, const T *g, const Pairs &pairs, const Row &row, int64_t p, int64_t o,
                                  int64_t begin, int64_t end, T *RESTRICT out) {
    const int64_t s = pairs.sender[p] * row.size(), r = pairs.receiver[p] * row.size();
    const int64_t here = o * row.channels + begin, there = row.opposite(o) * row.channels + begin, n = end - begin;
    for (int64_t c = 0; c < n; ++c) out[c] = x[s + here + c] * g[r + here + c];
    if (p >= pairs.two_way) return;
    for (int64_t c = 0; c < n; ++c) out[c] += x[r + there + c] * g[s + there + c];
}

// Orientations [begin, end) and, where pairs stand for two edges, their opposites: a thread's own columns.
template <class T>
PONITA_INLINE void spline_conv_orientations(const T *x, const T *weights, const T *table, Taps taps, Pairs pairs,
                                            Row row, T *out, int64_t begin, int64_t end) {
    constexpr int WIDTH = 32;
    const int64_t channels = row.channels, blocked = channels / WIDTH * WIDTH;
    const bool both = pairs.two_way > 0 && row.orientations > 1;
    for (int64_t p = 0; p < pairs.count; ++p) {
        const int64_t s = pairs.sender[p] * row.size(), r = pairs.receiver[p] * row.size();
        for (int64_t side = 0; side <= (both ? 1 : 0); ++side)
            for (int64_t i = begin; i < end; ++i) {
                const int64_t o = side ? row.opposite(i) : i, sample = p * row.orientations + o;
                const T *w = weights + 16 * sample, *rows = table + taps.corner[sample] * channels;
                if (is_empty(w)) continue;
                const int64_t here = o * channels, there = row.opposite(o) * channels;
                const Ends<T> ends{x + s + here, x + r + there, out + r + here, out + s + there, p < pairs.two_way};
                for (int64_t c = 0; c < blocked; c += WIDTH)
                    sample_block<WIDTH>(w, rows, taps.stride, channels, ends, c);
                for (int64_t c = blocked; c < channels; ++c)
                    sample_block<1>(w, rows, taps.stride, channels, ends, c);
            }
    }
}

template <class T>
PONITA_INLINE void weight_rows(const T *x, const T *g, const T *table, Taps taps, Pairs pairs, Row row, T *out,
                               int64_t begin, int64_t end) {
    std::vector<T> buffer(row.channels);
    T *RESTRICT product = buffer.data();
    for (int64_t p = begin; p < end; ++p)
        for (int64_t o = 0; o < row.orientations; ++o) {
            const int64_t sample = p * row.orientations + o;
            sample_product(x, g, pairs, row, p, o, 0, row.channels, product);
            for (int64_t a = 0; a < 4; ++a) {
                const T *RESTRICT t = table + (taps.corner[sample] + a * taps.stride) * row.channels;
                T s0 = 0, s1 = 0, s2 = 0, s3 = 0;
                for (int64_t c = 0; c < row.channels; ++c) {
                    s0 += product[c] * t[c];
                    s1 += product[c] * t[c + row.channels];
                    s2 += product[c] * t[c + 2 * row.channels];
                    s3 += product[c] * t[c + 3 * row.channels];
                }
                T *w = out + 16 * sample + 4 * a;
                w[0] = s0, w[1] = s1, w[2] = s2, w[3] = s3;
            }
        }
}

// WIDTH channels of one sample: the product of the features at its ends, added to its 16 rows of the table's gradient.
template <int WIDTH, class T>
PONITA_INLINE void scatter_block(const T *w, T *rows, int64_t stride, int64_t channels,
                                 const Ends<const T> &ends, int64_t c) {
    T product[WIDTH];
    for (int q = 0; q < WIDTH; ++q) product[q] = ends.x[c + q] * ends.out[c + q];
    if (ends.two_way)
        for (int q = 0; q < WIDTH; ++q) product[q] += ends.x_back[c + q] * ends.out_back[c + q];
    for (int a = 0; a < 4; ++a)
        for (int b = 0; b < 4; ++b) {
            T *RESTRICT row = rows + (a * stride + b) * channels + c;
            const T weight = w[4 * a + b];
            for (int q = 0; q < WIDTH; ++q) row[q] += weight * product[q];
        }
}

// Channels [begin, end) of the whole table are a thread's own.
template <class T>
PONITA_INLINE void table_channels(const T *x, const T *g, const T *weights, Taps taps, Pairs pairs, Row row, T *out,
                                  int64_t begin, int64_t end) {
    constexpr int WIDTH = 32;
    const int64_t channels = row.channels, blocked = begin + (end - begin) / WIDTH * WIDTH;
    for (int64_t p = 0; p < pairs.count; ++p) {
        const int64_t s = pairs.sender[p] * row.size(), r = pairs.receiver[p] * row.size();
        for (int64_t o = 0; o < row.orientations; ++o) {
            const int64_t sample = p * row.orientations + o;
            const T *w = weights + 16 * sample;
            if (is_empty(w)) continue;
            const int64_t here = o * channels, there = row.opposite(o) * channels;
            const Ends<const T> ends{x + s + here, x + r + there, g + r + here, g + s + there, p < pairs.two_way};
            T *rows = out + taps.corner[sample] * channels;
            for (int64_t c = begin; c < blocked; c += WIDTH)
                scatter_block<WIDTH>(w, rows, taps.stride, channels, ends, c);
            for (int64_t c = blocked; c < end; ++c) scatter_block<1>(w, rows, taps.stride, channels, ends, c);
        }
    }
}

}  // namespace ponita

using namespace ponita;

#define GRAPH const int64_t *sender, const int64_t *receiver, int64_t count, int64_t two_way, int64_t orientations
#define DEFINE_SPLINE(T, SUFFIX)                                                                                      \
    PONITA_DISPATCH static void conv_##SUFFIX(const T *x, const T *w, const T *table, Taps taps, Pairs pairs,         \
                                              Row row, T *out, int64_t b, int64_t e) {                                \
        spline_conv_orientations(x, w, table, taps, pairs, row, out, b, e);                                           \
    }                                                                                                                 \
    PONITA_DISPATCH static void weights_##SUFFIX(const T *x, const T *g, const T *table, Taps taps, Pairs pairs,      \
                                                 Row row, T *out, int64_t b, int64_t e) {                             \
        weight_rows(x, g, table, taps, pairs, row, out, b, e);                                                        \
    }                                                                                                                 \
    PONITA_DISPATCH static void table_##SUFFIX(const T *x, const T *g, const T *w, Taps taps, Pairs pairs, Row row,   \
                                               T *out, int64_t b, int64_t e) {                                        \
        table_channels(x, g, w, taps, pairs, row, out, b, e);                                                         \
    }                                                                                                                 \
    PONITA_EXPORT void ponita_spline_conv_##SUFFIX(const T *x, const T *w, const T *table, const int32_t *corner,     \
                                                   int64_t stride, int64_t nodes, GRAPH, int64_t channels, T *out,    \
                                                   int threads) {                                                     \
        const bool both = two_way > 0 && orientations > 1;                                                            \
        parallel(both ? orientations / 2 : orientations, threads, [&](int64_t b, int64_t e) {                         \
            conv_##SUFFIX(x, w, table, {corner, stride, nodes}, {sender, receiver, count, two_way},                   \
                          {orientations, channels}, out, b, e);                                                       \
        });                                                                                                           \
    }                                                                                                                 \
    PONITA_EXPORT void ponita_spline_weight_gradient_##SUFFIX(const T *x, const T *g, const T *table,                 \
                                                              const int32_t *corner, int64_t stride, int64_t nodes,   \
                                                              GRAPH, int64_t channels, T *out, int threads) {         \
        parallel(count, threads, [&](int64_t b, int64_t e) {                                                          \
            weights_##SUFFIX(x, g, table, {corner, stride, nodes}, {sender, receiver, count, two_way},                \
                             {orientations, channels}, out, b, e);                                                    \
        });                                                                                                           \
    }                                                                                                                 \
    PONITA_EXPORT void ponita_spline_table_gradient_##SUFFIX(const T *x, const T *g, const T *w,                      \
                                                             const int32_t *corner, int64_t stride, int64_t nodes,    \
                                                             GRAPH, int64_t channels, T *out, int threads) {          \
        parallel(channels, threads, [&](int64_t b, int64_t e) {                                                       \
            table_##SUFFIX(x, g, w, {corner, stride, nodes}, {sender, receiver, count, two_way},                      \
                           {orientations, channels}, out, b, e);                                                      \
        });                                                                                                           \
    }

DEFINE_SPLINE(float, f32)
DEFINE_SPLINE(double, f64)
