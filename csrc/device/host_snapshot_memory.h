#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "base/memory.h"

namespace mindckpt {

// Memory for snapshots of tensors in host memory, kept between saves: the system clears what it
// gives anew, and a virtual machine may have to get it from its host first. What is kept is the
// system's to take when memory runs short (MADV_FREE), and counts as available to it; a save that
// finds it taken only takes longer. Safe from any thread, and in forked children: they begin with
// nothing, and what their parent has taken or keeps is not in their memory.
class HostSnapshotMemory {
 public:
  HostSnapshotMemory();
  ~HostSnapshotMemory();  // nothing that was taken is out any more
  HostSnapshotMemory(const HostSnapshotMemory&) = delete;
  HostSnapshotMemory& operator=(const HostSnapshotMemory&) = delete;

  // At least `nbytes`: kept memory that is large enough and not much too large, else new, for which
  // what is smaller makes room. Throws std::bad_alloc.
  Pages take(uint64_t nbytes);
  // Gives it back: to the next take(), as far as the limit allows.
  void keep(Pages memory) noexcept;
  void trim();  // gives what is kept back to the system

  // Of what is kept; at first half of the machine's memory. 0: nothing is.
  void set_limit(uint64_t nbytes);

  struct Stats {
    uint64_t limit_nbytes = 0;
    uint64_t nbytes = 0;       // kept and taken
    uint64_t kept_nbytes = 0;  // of these
  };
  Stats stats() const;

 private:
  // What is kept by one process. A forked child can neither use its parent's nor destroy it: a
  // thread of the parent may have held the lock.
  struct State {
    explicit State(uint64_t limit);
    std::mutex mutex;
    Stats stats;
    std::vector<Pages> kept;  // oldest first
    const pid_t process;
  };
  State& state() const;
  static void release(State& state, std::vector<Pages>& released, uint64_t most_nbytes);

  mutable std::atomic<State*> state_;
};

}  // namespace mindckpt
