#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/workers.h"
#include "device/device.h"
#include "device/host_snapshot_memory.h"

namespace mindckpt {

// Pinned host memory of one device, through which bytes pass on their way to or from it. Pinning
// is slow (seconds for some GiB), so memory is pinned when it is first needed, up to a limit, and
// kept for every save and load to come. Whoever wants more than is free waits: that is how a save
// keeps to the pace of its slowest stage. Safe from any thread.
class StagingPool {
 public:
  StagingPool(const Device& device, uint64_t limit_nbytes);
  ~StagingPool();  // no lease is out any more
  StagingPool(const StagingPool&) = delete;
  StagingPool& operator=(const StagingPool&) = delete;

  // A page-aligned buffer of the pool, which goes back when this is destroyed; copies from and to
  // it must have ended then.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept { *this = std::move(other); }
    Lease& operator=(Lease&& other) noexcept;
    ~Lease() { give_back(); }

    ByteSpan span() const noexcept { return span_; }
    explicit operator bool() const noexcept { return pool_ != nullptr; }

   private:
    friend class StagingPool;
    Lease(StagingPool* pool, size_t slab, ByteSpan span) : pool_(pool), slab_(slab), span_(span) {}
    void give_back() noexcept;

    StagingPool* pool_ = nullptr;
    size_t slab_ = 0;
    ByteSpan span_;
  };

  // Waits for room, in the order of the calls; whoever holds leases of this pool already may wait
  // for itself. Throws Error(kInvalidArgument) for more than the limit, Error(kDevice) when nothing
  // can be pinned, Error(kCancelled).
  Lease acquire(uint64_t nbytes, const CancelFlag& cancel);
  // The same without waiting: nothing when there is no room, or somebody waits already.
  std::optional<Lease> try_acquire(uint64_t nbytes);

  // Unpins what no lease uses. The next save pins again.
  void trim();

  struct Stats {
    uint64_t limit_nbytes;
    uint64_t pinned_nbytes;
    uint64_t in_use_nbytes;
    uint64_t peak_in_use_nbytes;
    uint64_t leases;  // handed out so far
    uint64_t waits;   // of these, how many had to wait for room
  };
  Stats stats() const;
  // What is pinned beyond it is unpinned as soon as it is free.
  void set_limit(uint64_t nbytes);

 private:
  // Memory that was pinned at once, and the runs of it that are free: begin -> length, none of them
  // adjacent.
  struct Slab {
    PinnedMemory memory;
    std::map<size_t, size_t> free_runs;
    bool is_free() const {
      return free_runs.size() == 1 && free_runs.begin()->second == memory.size();
    }
  };

  std::optional<Lease> carve(size_t nbytes);
  bool grow(size_t nbytes);
  void give_back(size_t slab, ByteSpan span) noexcept;
  void unpin_free_slabs() noexcept;

  const Device& device_;
  mutable std::mutex mutex_;
  uint64_t limit_nbytes_;
  std::condition_variable room_;
  std::vector<std::unique_ptr<Slab>> slabs_;  // a trimmed one's place stays, empty
  std::deque<const void*> waiting_;           // who comes next is in front
  uint64_t pinned_nbytes_ = 0;
  uint64_t in_use_nbytes_ = 0;
  uint64_t peak_in_use_nbytes_ = 0;
  uint64_t leases_ = 0;
  uint64_t waits_ = 0;
};

// Pinned memory for whole snapshots, kept between saves because pinning it takes longer than
// filling it. Safe from any thread.
class SnapshotMemory {
 public:
  explicit SnapshotMemory(const Device& device) : device_(device) {}

  // At least `nbytes`: kept memory that is large enough, else new. Throws Error(kDevice).
  PinnedMemory take(uint64_t nbytes);
  void keep(PinnedMemory memory) noexcept;
  void trim();                     // gives back what is kept
  uint64_t pinned_nbytes() const;  // kept and taken
  uint64_t kept_nbytes() const;

 private:
  const Device& device_;
  mutable std::mutex mutex_;
  std::vector<PinnedMemory> kept_;
  uint64_t pinned_nbytes_ = 0;
};

// All that is pinned for a device in this process. Made when the device is first used.
class DeviceStaging {
 public:
  DeviceStaging(const Device& of_device, uint64_t limit_nbytes)
      : device(of_device), pool(of_device, limit_nbytes), snapshots(of_device) {}

  const Device& device;
  StagingPool pool;
  SnapshotMemory snapshots;
};

// A forked child begins with none: what is pinned is its parent's, and a lock of it may be held by
// a thread that does not exist here.
class StagingPools {
 public:
  static constexpr uint64_t kDefaultLimitBytes = uint64_t{256} << 20;  // a device

  explicit StagingPools(uint64_t limit_nbytes = kDefaultLimitBytes);
  ~StagingPools();
  StagingPools(const StagingPools&) = delete;
  StagingPools& operator=(const StagingPools&) = delete;

  // Throws Error(kUnavailable) for a device that was used before a fork.
  DeviceStaging& of(const Device& device);
  std::vector<DeviceStaging*> all() const;
  // For tensors that are on no device; not pinned.
  HostSnapshotMemory& host_snapshots() noexcept { return host_snapshots_; }
  void trim();                      // all of it
  void set_limit(uint64_t nbytes);  // of each device

 private:
  struct State {
    pid_t process;
    std::mutex mutex;
    std::vector<std::unique_ptr<DeviceStaging>> staging;
  };
  State& state() const;  // this process's

  std::atomic<uint64_t> limit_nbytes_;
  mutable std::atomic<State*> state_;
  HostSnapshotMemory host_snapshots_;
};

}  // namespace mindckpt
