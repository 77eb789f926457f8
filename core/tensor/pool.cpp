/* SPDX-License-Identifier: Apache-2.0
 *
 * One pool instead of two. Debian's libtorch computes on OpenMP's threads and its OpenBLAS on
 * threads of its own; workers of each burn a core while the other's are at work, and OpenMP's go on
 * spinning whoever else needs the machine. Measured on GPT-2 small, batch 8, 16 tokens, 2 cores:
 * 305 ms with both pools, 170 ms with OpenMP off; and 500 ms against 300 ms when another process
 * has one core.
 *
 * So where BLAS is ours to call (gemm.cpp), OpenBLAS and OpenMP get one thread each, and products
 * and loops run here. A worker spins for SPIN_NS after a run, because the next follows in
 * microseconds within a pass, and then sleeps. Tasks are taken one by one from a counter, so a
 * worker that the system suspends holds up one task only. Results do not depend on who took which.
 *
 * With another BLAS (pip's libtorch: MKL), which shares OpenMP's threads, runs go there, too. */
#include "core/tensor/pool.hpp"

#include "core/tensor/gemm.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>

namespace abl {

namespace {

constexpr int64_t SPIN_NS = 50000;
constexpr int THREADS_MAX = 256;

struct pool {
    std::mutex mutex; /* guards what is not atomic */
    std::condition_variable wake;
    std::condition_variable done;
    std::atomic<uint64_t> generation{0};
    std::atomic<int64_t> next{0};
    std::atomic<int> inside{0}; /* workers in the current run */
    bool open = false;          /* workers may still join it */
    int64_t count = 0;
    void (*body)(void *, int64_t) = nullptr;
    void *context = nullptr;
    int workers = 0; /* that may join: threads - 1 */
    int started = 0;
    std::atomic<bool> running{false}; /* true while a caller has the pool */
};

/* Never destroyed: workers are detached, and sleep in it when the process ends. */
pool &the_pool() {
    static pool *only = new pool;
    return *only;
}

std::atomic<int> wanted_threads{0}; /* each executor says it, all the same */

int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

template <typename Ready> bool spin_until(Ready &&ready) {
    const int64_t end = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 64; i++) {
            if (ready()) {
                return true;
            }
            relax();
        }
    } while (now_ns() < end);
    return false;
}

void take_tasks(pool &p, void (*body)(void *, int64_t), void *context, int64_t count) {
    for (int64_t i = p.next.fetch_add(1); i < count; i = p.next.fetch_add(1)) {
        body(context, i);
    }
}

void work(pool &p, int number) {
    uint64_t seen = 0;
    for (;;) {
        (void)spin_until([&] { return p.generation.load() != seen; });
        std::unique_lock<std::mutex> lock(p.mutex);
        p.wake.wait(lock, [&] { return p.generation.load() != seen; });
        seen = p.generation.load();
        if (!p.open || number >= p.workers) {
            continue;
        }
        p.inside.fetch_add(1);
        void (*body)(void *, int64_t) = p.body;
        void *context = p.context;
        const int64_t count = p.count;
        lock.unlock();
        take_tasks(p, body, context, count);
        if (p.inside.fetch_sub(1) == 1) {
            lock.lock();
            p.done.notify_one();
        }
    }
}

/* Fewer than wanted when the system gives no more: the caller computes in any case. */
void start_workers(pool &p) {
    try {
        while (p.started < p.workers) {
            const int number = p.started;
            std::thread([&p, number] { work(p, number); }).detach();
            p.started++;
        }
    } catch (const std::exception &) {
        p.workers = p.started;
    }
}

void run_on_pool(pool &p, int64_t count, void (*body)(void *, int64_t), void *context) {
    {
        std::lock_guard<std::mutex> lock(p.mutex);
        p.workers = static_cast<int>(std::min<int64_t>(pool_threads() - 1, count - 1));
        start_workers(p);
        p.body = body;
        p.context = context;
        p.count = count;
        p.next.store(0);
        p.open = true;
        p.generation.fetch_add(1);
    }
    p.wake.notify_all();
    take_tasks(p, body, context, count);
    std::unique_lock<std::mutex> lock(p.mutex);
    p.open = false;
    lock.unlock();
    if (!spin_until([&] { return p.inside.load() == 0; })) {
        lock.lock();
        p.done.wait(lock, [&] { return p.inside.load() == 0; });
    }
}

void run_serially(int64_t count, void (*body)(void *, int64_t), void *context) {
    for (int64_t i = 0; i < count; i++) {
        body(context, i);
    }
}

} // namespace

int pool_threads() {
    const int wanted = wanted_threads.load(std::memory_order_relaxed);
    return (blas_is_ours() && wanted > 0) ? wanted : at::get_num_threads();
}

/* As OpenMP has it, but asked of the system: libtorch says 1 once OpenBLAS was told to take one. */
static int all_threads() {
    const char *wish = std::getenv("OMP_NUM_THREADS");
    const long wished = (wish == nullptr) ? 0 : std::strtol(wish, nullptr, 10);
    const long there = static_cast<long>(std::thread::hardware_concurrency());
    return static_cast<int>(std::clamp(wished > 0 ? wished : there, 1L, long{THREADS_MAX}));
}

void pool_set_threads(int threads) {
    const int all = std::min((threads > 0) ? threads : all_threads(), THREADS_MAX);
    if (blas_is_ours()) {
        wanted_threads.store(all, std::memory_order_relaxed);
        at::set_num_threads(1);
    } else {
        at::set_num_threads(all);
    }
}

void pool_run(int64_t count, void (*body)(void *context, int64_t task), void *context) {
    if (count <= 1 || pool_threads() <= 1) {
        run_serially(count, body, context);
        return;
    }
    if (!blas_is_ours()) {
        std::atomic<int64_t> next{0};
        at::parallel_for(0, std::min<int64_t>(pool_threads(), count), 1, [&](int64_t, int64_t) {
            for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
                body(context, i);
            }
        });
        return;
    }
    pool &p = the_pool();
    if (p.running.exchange(true)) {
        run_serially(count, body, context);
        return;
    }
    run_on_pool(p, count, body, context);
    p.running.store(false);
}

} // namespace abl
