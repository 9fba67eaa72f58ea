// Shared by the CPU kernels: dispatch to the processor's vector unit, and threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

#if defined(_WIN32)
#define PONITA_EXPORT extern "C" __declspec(dllexport)
#else
#define PONITA_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// One function is compiled for several instruction sets; the loader picks the best the processor has.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__) && !defined(PONITA_NO_CLONES)
#define PONITA_DISPATCH __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define PONITA_DISPATCH
#endif

#if defined(__GNUC__)
#define PONITA_INLINE inline __attribute__((always_inline))
#else
#define PONITA_INLINE inline
#endif

#define RESTRICT __restrict

namespace ponita {

// Pairs of a graph: endpoints, and how many leading pairs stand for two edges.
struct Pairs {
    const int64_t *sender, *receiver;
    int64_t count, two_way;
};

// A feature row is [O, C]. The opposite of column q < half is q + half; on spaces without directions half is 0.
struct Row {
    int64_t orientations, channels;
    int64_t size() const { return orientations * channels; }
    int64_t opposite(int64_t o) const { return orientations == 1 ? o : (o + orientations / 2) % orientations; }
};

// Run body(begin, end) on equal parts of [0, count), one to a thread. Parts never share what they write.
template <class Body>
void parallel(int64_t count, int threads, const Body &body) {
    const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(threads, count));
    std::vector<std::thread> pool;
    for (int64_t part = 1; part < parts; ++part)
        pool.emplace_back([&, part] { body(count * part / parts, count * (part + 1) / parts); });
    body(0, count / parts);
    for (auto &thread : pool) thread.join();
}

}  // namespace ponita
