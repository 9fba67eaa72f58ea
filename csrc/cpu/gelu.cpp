// Second and third derivatives of GELU, times a factor: what torch composes from a dozen passes over memory.
#include <cstring>

#include "common.h"

namespace ponita {

template <class T>
struct Format;

template <>
struct Format<float> {
    using Bits = int32_t;
    static constexpr int mantissa = 23, bias = 127, degree = 7;
    static constexpr float smallest = -87.0f;
};

template <>
struct Format<double> {
    using Bits = int64_t;
    static constexpr int mantissa = 52, bias = 1023, degree = 13;
    static constexpr double smallest = -708.0;
};

// exp(y) for y <= 0, and zero below the smallest normal number. Without a call of the C library, so that loops are
// vectorised: a power of two, and the Taylor series within half a binade.
template <class T>
PONITA_INLINE T exp_negative(T y) {
    using F = Format<T>;
    const T clamped = y < F::smallest ? F::smallest : y;
    const T power = __builtin_rint(clamped * T(1.44269504088896340736));
    const T rest = clamped - power * T(0.693147180559945309417);
    T value = 1;
    for (int k = F::degree; k > 0; --k) value = 1 + value * rest * (T(1) / T(k));
    const typename F::Bits exponent = static_cast<int32_t>(power) + F::bias, bits = exponent << F::mantissa;
    T scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return y < F::smallest ? T(0) : value * scale;
}

// With the normal density phi the derivatives of x Phi(x) are Phi + x phi, phi (2 - x^2), phi x (x^2 - 4).
template <class T, bool THIRD>
PONITA_INLINE void gelu_range(const T *RESTRICT x, const T *RESTRICT g, T *RESTRICT out, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
        const T squared = x[i] * x[i], polynomial = THIRD ? x[i] * (squared - 4) : 2 - squared;
        out[i] = g[i] * polynomial * T(0.398942280401432677940) * exp_negative(T(-0.5) * squared);
    }
}

}  // namespace ponita

using namespace ponita;

#define DEFINE_GELU(T, SUFFIX)                                                                                        \
    PONITA_DISPATCH static void second_##SUFFIX(const T *x, const T *g, T *out, int64_t b, int64_t e) {               \
        gelu_range<T, false>(x, g, out, b, e);                                                                        \
    }                                                                                                                 \
    PONITA_DISPATCH static void third_##SUFFIX(const T *x, const T *g, T *out, int64_t b, int64_t e) {                \
        gelu_range<T, true>(x, g, out, b, e);                                                                         \
    }                                                                                                                 \
    PONITA_EXPORT void ponita_gelu_gradient_##SUFFIX(const T *x, const T *g, int64_t count, int64_t order, T *out,    \
                                                     int threads) {                                                   \
        parallel(count, threads, [&](int64_t b, int64_t e) {                                                          \
            order == 2 ? second_##SUFFIX(x, g, out, b, e) : third_##SUFFIX(x, g, out, b, e);                          \
        });                                                                                                           \
    }

DEFINE_GELU(float, f32)
DEFINE_GELU(double, f64)
