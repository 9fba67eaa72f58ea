// Every CPU kernel on odd shapes, in buffers of exactly the size they may touch. Built with AddressSanitizer.
#include <cstdint>
#include <cstdio>
#include <vector>

#define GRAPH const int64_t *, const int64_t *, int64_t, int64_t, int64_t
extern "C" {
void ponita_pair_conv_f32(const float *, const float *, GRAPH, int64_t, float *, int);
void ponita_pair_product_f32(const float *, const float *, GRAPH, int64_t, float *, int);
void ponita_spline_conv_f32(const float *, const float *, const float *, const int32_t *, int64_t, int64_t, GRAPH,
                            int64_t, float *, int);
void ponita_spline_weight_gradient_f32(const float *, const float *, const float *, const int32_t *, int64_t, int64_t,
                                       GRAPH, int64_t, float *, int);
void ponita_spline_table_gradient_f32(const float *, const float *, const float *, const int32_t *, int64_t, int64_t,
                                      GRAPH, int64_t, float *, int);
}

static std::vector<float> filled(int64_t size, float step) {
    std::vector<float> values(size);
    for (int64_t k = 0; k < size; ++k) values[k] = step * static_cast<float>(k % 7) - 1.0f;
    return values;
}

static double run(int64_t nodes, int64_t pairs, int64_t two_way, int64_t orientations, int64_t channels, int threads) {
    const int64_t rows = 6, stride = 5, size = orientations * channels;
    std::vector<int64_t> sender(pairs), receiver(pairs);
    for (int64_t p = 0; p < pairs; ++p) sender[p] = nodes - 1 - p % nodes, receiver[p] = (2 * p) % nodes;
    std::vector<int32_t> corner(pairs * orientations);
    for (size_t k = 0; k < corner.size(); ++k) corner[k] = (k % 3) * stride + k % 2;  // up to the last row and column
    const auto x = filled(nodes * size, 0.3f), g = filled(nodes * size, 0.2f), kernel = filled(pairs * size, 0.1f);
    const auto weights = filled(pairs * orientations * 16, 0.05f), table = filled(rows * stride * channels, 0.4f);
    auto node = filled(nodes * size, 0), pair = filled(pairs * size, 0), weight = weights, tables = table;
    const int64_t *s = sender.data(), *r = receiver.data();
    const int32_t *c = corner.data();
    ponita_pair_conv_f32(x.data(), kernel.data(), s, r, pairs, two_way, orientations, channels, node.data(), threads);
    ponita_pair_product_f32(x.data(), g.data(), s, r, pairs, two_way, orientations, channels, pair.data(), threads);
    ponita_spline_conv_f32(x.data(), weights.data(), table.data(), c, stride, rows * stride, s, r, pairs, two_way,
                           orientations, channels, node.data(), threads);
    ponita_spline_weight_gradient_f32(x.data(), g.data(), table.data(), c, stride, rows * stride, s, r, pairs, two_way,
                                      orientations, channels, weight.data(), threads);
    ponita_spline_table_gradient_f32(x.data(), g.data(), weights.data(), c, stride, rows * stride, s, r, pairs,
                                     two_way, orientations, channels, tables.data(), threads);
    double sum = 0;
    for (const auto *values : {&node, &pair, &weight, &tables})
        for (float value : *values) sum += value;
    return sum;
}

int main() {
    double sum = 0;
    for (int threads : {1, 3})
        for (int64_t channels : {1, 3, 33})
            for (int64_t orientations : {1, 2, 5, 12})
                for (int64_t pairs : {0, 1, 13}) {
                    sum += run(5, pairs, 0, orientations, channels, threads);
                    if (orientations != 5) sum += run(5, pairs, pairs - pairs / 3, orientations, channels, threads);
                }
    std::printf("checksum %.6g\n", sum);
    return sum == sum ? 0 : 1;
}
