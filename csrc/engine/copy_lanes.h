#pragma once

#include <memory>
#include <vector>

#include "device/device.h"
#include "device/staging.h"
#include "image/file_image.h"

namespace mindckpt {

// A copy widened to the alignment that the device needs: it begins `skew` bytes before what is
// wanted, inside the same allocation, as those are aligned.
struct AlignedCopy {
  const std::byte* from;
  uint64_t nbytes;
  uint64_t skew;
};

// What a save needs of one device that it reads from: a stream of its own, beside all others.
struct CopyLane {
  CopyLane(const Device& lane_device, DeviceStaging& lane_staging)
      : device(lane_device), staging(lane_staging), stream(lane_device, CopyDirection::kToHost) {}

  const Device& device;
  DeviceStaging& staging;
  DeviceStream stream;

  AlignedCopy aligned(const std::byte* data, uint64_t nbytes) const noexcept {
    const uint64_t skew =
        reinterpret_cast<uintptr_t>(data) & (device.backend().copy_alignment() - 1);
    return {data - skew, nbytes + skew, skew};
  }
};

// The lanes of all devices that hold payloads of an image.
class CopyLanes {
 public:
  CopyLanes() = default;
  CopyLanes(const FileImage& image, StagingPools& pools);  // throws Error(kDevice)

  bool empty() const noexcept { return lanes_.empty(); }
  const std::vector<std::unique_ptr<CopyLane>>& all() const noexcept { return lanes_; }
  CopyLane& of(const Device* device) const;

  // What is copied from now on was made by what the producers' streams hold so far. To be called on
  // the thread whose streams they are. Throws Error(kInvalidArgument) for a stream that is being
  // captured.
  void start_after(const std::vector<Producer>& producers);

 private:
  std::vector<std::unique_ptr<CopyLane>> lanes_;
};

}  // namespace mindckpt
