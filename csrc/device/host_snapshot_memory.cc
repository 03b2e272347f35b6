#include "device/host_snapshot_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <utility>

#include "base/process.h"

namespace mindckpt {

namespace {

// Kept memory may be this much larger than what is asked for, beyond twice that: a small save that
// held a large one's memory would leave the large one without.
constexpr uint64_t kSlackBytes = uint64_t{64} << 20;

uint64_t default_limit_nbytes() {
  const long pages = ::sysconf(_SC_PHYS_PAGES);
  const long page_nbytes = ::sysconf(_SC_PAGESIZE);
  if (pages <= 0 || page_nbytes <= 0) return 0;
  return static_cast<uint64_t>(pages) * static_cast<uint64_t>(page_nbytes) / 2;
}

}  // namespace

HostSnapshotMemory::State::State(uint64_t limit) : process(process_id()) {
  stats.limit_nbytes = limit;
}

HostSnapshotMemory::HostSnapshotMemory() : state_(new State(default_limit_nbytes())) {}

HostSnapshotMemory::~HostSnapshotMemory() {
  State* const own = state_.load(std::memory_order_acquire);
  if (own->process == process_id()) delete own;
}

HostSnapshotMemory::State& HostSnapshotMemory::state() const {
  State* found = state_.load(std::memory_order_acquire);
  if (found->process == process_id()) return *found;
  auto* const own = new State(found->stats.limit_nbytes);
  if (state_.compare_exchange_strong(found, own, std::memory_order_acq_rel)) return *own;
  delete own;
  return *found;
}

// Moves the oldest ones to `released` until no more is kept than that; to be destroyed without the
// lock.
void HostSnapshotMemory::release(State& state, std::vector<Pages>& released, uint64_t most_nbytes) {
  released.reserve(state.kept.size());
  size_t count = 0;
  for (; count < state.kept.size() && state.stats.kept_nbytes > most_nbytes; ++count) {
    state.stats.kept_nbytes -= state.kept[count].size();
    state.stats.nbytes -= state.kept[count].size();
    released.push_back(std::move(state.kept[count]));
  }
  state.kept.erase(state.kept.begin(), state.kept.begin() + static_cast<ptrdiff_t>(count));
}

Pages HostSnapshotMemory::take(uint64_t nbytes) {
  if (nbytes == 0) return {};
  State& own = state();
  {
    std::vector<Pages> released;
    const std::lock_guard lock(own.mutex);
    auto best = own.kept.end();
    for (auto it = own.kept.begin(); it != own.kept.end(); ++it) {
      const bool suits = it->size() >= nbytes && it->size() / 2 <= nbytes + kSlackBytes / 2;
      if (suits && (best == own.kept.end() || it->size() < best->size())) best = it;
    }
    if (best != own.kept.end()) {
      Pages memory = std::move(*best);
      own.kept.erase(best);
      own.stats.kept_nbytes -= memory.size();
      return memory;
    }
    // What is too small for this one makes room for it; what is too large to be given for it is
    // left to the save that it is for.
    released.reserve(own.kept.size());
    for (Pages& kept : own.kept) {
      if (kept.size() >= nbytes) continue;
      own.stats.kept_nbytes -= kept.size();
      own.stats.nbytes -= kept.size();
      released.push_back(std::move(kept));
    }
    std::erase_if(own.kept, [](const Pages& kept) { return kept.size() == 0; });
  }
  Pages memory(nbytes);
  // Not a forked child's: it has no use for it, and the copy-on-write that it would share it by is
  // dear to a save that goes on.
  ::madvise(memory.data(), memory.size(), MADV_DONTFORK);
  const std::lock_guard lock(own.mutex);
  own.stats.nbytes += memory.size();
  return memory;
}

void HostSnapshotMemory::keep(Pages memory) noexcept {
  if (memory.size() == 0) return;
  State& own = state();
  std::vector<Pages> released;
  // A kernel that can't do that would have it held for ever.
  const bool can_be_kept = ::madvise(memory.data(), memory.size(), MADV_FREE) == 0;
  const std::lock_guard lock(own.mutex);
  try {
    if (can_be_kept && memory.size() <= own.stats.limit_nbytes) {
      release(own, released, own.stats.limit_nbytes - memory.size());
      own.kept.push_back(std::move(memory));
      own.stats.kept_nbytes += own.kept.back().size();
      return;
    }
  } catch (const std::bad_alloc&) {
  }
  own.stats.nbytes -= memory.size();
}

void HostSnapshotMemory::trim() {
  State& own = state();
  std::vector<Pages> released;
  const std::lock_guard lock(own.mutex);
  release(own, released, 0);
}

void HostSnapshotMemory::set_limit(uint64_t nbytes) {
  State& own = state();
  std::vector<Pages> released;
  const std::lock_guard lock(own.mutex);
  own.stats.limit_nbytes = nbytes;
  release(own, released, nbytes);
}

HostSnapshotMemory::Stats HostSnapshotMemory::stats() const {
  State& own = state();
  const std::lock_guard lock(own.mutex);
  return own.stats;
}

}  // namespace mindckpt
