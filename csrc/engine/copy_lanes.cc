#include "engine/copy_lanes.h"

#include <algorithm>

#include "base/error.h"

namespace mindckpt {

CopyLanes::CopyLanes(const FileImage& image, StagingPools& pools) {
  for (const TensorRef& tensor : image.tensors()) {
    const Device* device = tensor.device;
    // Most tensors are where the one before was.
    if (device == nullptr || (!lanes_.empty() && &lanes_.back()->device == device)) continue;
    const auto same = [&](const auto& lane) { return &lane->device == device; };
    if (std::ranges::any_of(lanes_, same)) continue;
    if (!lanes_.empty() && &lanes_.front()->device.backend() != &device->backend()) {
      // Pinned by one driver, memory is not pinned for another; nor do streams know others' events.
      throw Error(ErrorKind::kInvalidArgument, "tensors on " + lanes_.front()->device.name() +
                                                   " and on " + device->name() +
                                                   " can't be in one checkpoint");
    }
    lanes_.push_back(std::make_unique<CopyLane>(*device, pools.of(*device)));
  }
}

CopyLane& CopyLanes::of(const Device* device) const {
  for (const auto& lane : lanes_) {
    if (&lane->device == device) return *lane;
  }
  MINDCKPT_CHECK(false);
}

void CopyLanes::start_after(const std::vector<Producer>& producers) {
  for (const Producer& producer : producers) {
    of(producer.device).stream.start_after(producer);
  }
}

}  // namespace mindckpt
