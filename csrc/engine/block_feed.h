#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/workers.h"
#include "engine/copy_lanes.h"
#include "engine/snapshot.h"
#include "engine/trace.h"
#include "image/file_image.h"

namespace mindckpt {

// Brings the blocks of an image whose payloads lie in devices' memory to the host, ahead of the
// workers that want them. Copies are put into the lanes' streams for as many blocks to come as the
// staging pools have room for, so that the copy engine has work whenever there is some; a worker
// waits for its own block's copies only. Blocks in host memory pass through.
class BlockFeed {
 public:
  // A block's pieces, none of them on a device, and the staging memory that some of them are in.
  struct Block {
    std::vector<FileImage::Piece> pieces;
    StagingPool::Lease lease;
  };

  // All are borrowed. `snapshot` and `trace` may be nullptr.
  BlockFeed(const FileImage& image, const CopyLanes& lanes, const Snapshot* snapshot,
            const CancelFlag& cancel, Trace* trace = nullptr);
  ~BlockFeed();  // waits for copies under way
  BlockFeed(const BlockFeed&) = delete;
  BlockFeed& operator=(const BlockFeed&) = delete;

  // Waits until the block is in host memory. Each block once; workers take them in ascending order,
  // as for_each_item hands them out. Safe from any thread. Throws Error(kDevice),
  // Error(kCancelled).
  Block take(uint64_t block);

  // Puts copies for more blocks into the streams, where there is room now. A worker calls it when
  // its lease went back.
  void refill();

  // Whether the copies of all blocks have been put into the streams.
  bool all_issued() const noexcept { return all_issued_.load(std::memory_order_acquire); }

 private:
  struct Arrival {
    CopyLane* lane;
    DeviceEvent event;
  };
  struct Staged {
    Block block;
    std::vector<Arrival> arrivals;
    Clock::time_point issued;
  };
  // Of the next block: its pieces, and the staging memory it needs; 0: none.
  struct Plan {
    std::vector<FileImage::Piece> pieces;
    CopyLane* pool_lane = nullptr;
    uint64_t staging_nbytes = 0;
  };

  void issue_through(uint64_t block, std::unique_lock<std::mutex>& lock);
  void issue_ahead();
  Plan& plan_next();
  void issue_next(StagingPool::Lease lease);
  void issue(uint64_t block, Plan plan, StagingPool::Lease lease);
  void fail() noexcept;
  DeviceEvent event_of(const CopyLane& lane);
  void wait_for(uint64_t block, Staged& staged);
  void wait_for_snapshot(uint64_t block, const std::vector<FileImage::Piece>& pieces);

  const FileImage& image_;
  const CopyLanes& lanes_;
  const Snapshot* snapshot_;
  const CancelFlag& cancel_;
  Trace* trace_;

  std::mutex mutex_;
  std::condition_variable issued_;
  std::exception_ptr failed_;      // why no block can be taken any more
  bool waiting_for_room_ = false;  // one thread is, without the mutex: nobody else issues meanwhile
  uint64_t next_ = 0;              // the first block whose copies are not issued
  std::optional<Plan> plan_;       // of that block
  std::map<uint64_t, Staged> staged_;  // issued and not taken, those with copies
  std::vector<std::pair<const CopyLane*, DeviceEvent>> spare_events_;
  std::atomic<bool> all_issued_{false};
  Clock::time_point last_arrival_;  // for the trace
};

}  // namespace mindckpt
