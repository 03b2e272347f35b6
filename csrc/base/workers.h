#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace mindckpt {

// Threads to use when the caller does not say: the processors this process may run on, at most 8
// (past that one file's writer is the limit, and staging memory grows with each thread).
int default_num_threads();

// Set from any thread to make a save or load stop at its next block.
using CancelFlag = std::atomic<bool>;
// Throws Error(kCancelled) once it is set.
void check_not_cancelled(const CancelFlag& cancel);

// Runs body(item, worker) for every item in [begin, end), items taken from one counter by
// `num_threads` threads, the calling one among them; worker is in [0, num_threads). Returns when
// all are done. The first exception is kept, the rest of the items are dropped, and it is rethrown
// here. Throws Error(kCancelled) once `cancel` is set.
//
// `at_end`, where there is one, is called by each worker when it gets no more items, also after a
// failure: so that it gives back what others may be waiting for.
void for_each_item(uint64_t begin, uint64_t end, int num_threads, const CancelFlag& cancel,
                   const std::function<void(uint64_t item, int worker)>& body,
                   const std::function<void(int worker)>& at_end = {});

}  // namespace mindckpt
