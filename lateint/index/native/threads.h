// Work shared by threads that live as long as the call: a pool would not survive fork().
#pragma once

#include <algorithm>
#include <atomic>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "kernels.h"

namespace lateint {

// Calls work(first, last) -> Fault for pieces of [0, items) on up to `threads` threads, each with
// at least `grain` items. Returns the first fault met; what follows it is left undone.
template <class Work>
Fault share(int64_t items, int64_t grain, int threads, Work work) {
    grain = std::max<int64_t>(grain, 1);
    const int64_t useful = std::min<int64_t>(threads, items / grain);
    if (useful <= 1) return items ? work(int64_t{0}, items) : Fault{};
    // eight pieces a thread: documents differ in length
    const int64_t piece = std::max(grain, (items + 8 * useful - 1) / (8 * useful));
    std::atomic<int64_t> next{0};
    std::mutex lock;
    Fault fault;
    auto run = [&] {
        for (;;) {
            const int64_t first = next.fetch_add(piece);
            if (first >= items) return;
            const Fault found = work(first, std::min(items, first + piece));
            if (found.what) {
                const std::lock_guard<std::mutex> guard(lock);
                if (!fault.what) fault = found;
                next = items;
                return;
            }
        }
    };
    std::vector<std::thread> others;
    others.reserve(static_cast<size_t>(useful));
    try {
        for (int64_t i = 1; i < useful; ++i) others.emplace_back(run);
    } catch (const std::system_error&) {
        // the system has no more threads: fewer do the same work
    }
    run();
    for (std::thread& other : others) other.join();
    return fault;
}

}  // namespace lateint
