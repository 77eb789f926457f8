/* pool.hpp -- the threads that compute on the CPU, for the shim's own files. */
#ifndef ABLATE_CORE_TENSOR_POOL_HPP
#define ABLATE_CORE_TENSOR_POOL_HPP

#include <algorithm>
#include <cstdint>

namespace abl {

/* Threads that take part in a run, the caller's included. */
int pool_threads();
/* 0: as many as libtorch would use. Before the first run, or between runs. */
void pool_set_threads(int threads);

/* Calls body(context, 0 .. count - 1), each once, on the pool and on the caller; returns when all are
 * done. Runs that meet (two callers, or a run inside a run) do theirs on their own thread. */
void pool_run(int64_t count, void (*body)(void *context, int64_t task), void *context);

template <typename Body> void for_each_task(int64_t count, Body &&body) {
    if (count == 1) {
        body(static_cast<int64_t>(0));
        return;
    }
    pool_run(
        count,
        [](void *context, int64_t task) {
            (*static_cast<std::remove_reference_t<Body> *>(context))(task);
        },
        &body);
}

/* Calls body(begin, end) over [0, count), in pieces of at least `grain`. */
template <typename Body> void for_each_range(int64_t count, int64_t grain, Body &&body) {
    const int64_t pieces = std::max<int64_t>(
        1, std::min<int64_t>(count / std::max<int64_t>(1, grain), 4 * pool_threads()));
    const int64_t step = (count + pieces - 1) / pieces;
    for_each_task((count + step - 1) / std::max<int64_t>(1, step),
                  [&](int64_t piece) { body(piece * step, std::min(count, (piece + 1) * step)); });
}

} // namespace abl

#endif
