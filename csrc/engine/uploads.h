#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "base/bytes.h"
#include "base/workers.h"
#include "device/staging.h"
#include "engine/copy_lanes.h"

namespace mindckpt {

// Copies to devices' memory that run while the next blocks are read and opened. Each worker fills
// pinned staging memory, puts copies from it into a device's stream, and goes on; the memory goes
// back to its pool when they have ended.
class Uploads {
 public:
  // A load's way to one device.
  struct Lane {
    Lane(const Device& lane_device, DeviceStaging& lane_staging)
        : device(lane_device),
          staging(lane_staging),
          stream(lane_device, CopyDirection::kToDevice) {}

    const Device& device;
    DeviceStaging& staging;
    DeviceStream stream;
  };

  // What the producers' streams hold comes first: it may use the memory's earlier contents.
  Uploads(const std::vector<const Device*>& devices, StagingPools& pools,
          const std::vector<Producer>& producers, int num_threads);
  ~Uploads();  // waits for what is under way
  Uploads(const Uploads&) = delete;
  Uploads& operator=(const Uploads&) = delete;

  // Staging memory for a worker's next block, until submit(). Waits for the worker's own earlier
  // copies, and for room.
  ByteSpan begin(int worker, uint64_t nbytes, const CancelFlag& cancel);
  // Puts a copy from that memory into the device's stream.
  void copy(int worker, const Device& device, std::byte* to, ByteView from);
  // The block's copies are all there.
  void submit(int worker);

  // The same for bytes that are in other memory, such as of a block that is too large for begin():
  // through staging memory, piece by piece.
  void copy_through(int worker, const Device& device, std::byte* to, ByteView from,
                    const CancelFlag& cancel);
  // What begin() can always give: half of the pool.
  uint64_t most_nbytes() const;

  // A worker's last call, also after a failure: waits until its copies have ended, and gives back
  // the memory that others may be waiting for. Throws what went wrong with them.
  void finish(int worker);

 private:
  struct Block {
    StagingPool::Lease lease;
    std::vector<std::pair<Lane*, DeviceEvent>> ended;
  };
  struct Worker {
    Block filling;
    std::vector<Lane*> used;       // by the block that is being filled
    std::vector<Block> in_flight;  // oldest first
  };

  Lane& lane_of(const Device& device) const;
  static void wait_for_oldest(Worker& worker);

  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<Worker> workers_;
};

}  // namespace mindckpt
