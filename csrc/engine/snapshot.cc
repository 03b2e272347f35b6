#include "engine/snapshot.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/stream_copy.h"
#include "base/workers.h"

namespace mindckpt {

namespace {

constexpr uint64_t kHostCopyBytes = uint64_t{4} << 20;
// An event after each: the sooner one happens, the sooner its bytes are written.
constexpr uint64_t kMarkBytes = uint64_t{16} << 20;
// A cache line for host copies, so that no two write to one; what devices like for theirs.
constexpr uint64_t kAlignment = 256;

constexpr uint64_t align_up(uint64_t nbytes) {
  return (nbytes + kAlignment - 1) / kAlignment * kAlignment;
}

// What copies of a lane's payloads take, each in its place within the alignment that the device's
// copies need.
uint64_t room_for(const FileImage& image, const CopyLane& lane) {
  uint64_t nbytes = 0;
  for (const TensorRef& tensor : image.tensors()) {
    if (tensor.device == &lane.device) nbytes += align_up(tensor.nbytes) + kAlignment;
  }
  return nbytes;
}

}  // namespace

PayloadSizes payload_sizes(const FileImage& image) {
  PayloadSizes sizes;
  for (const TensorRef& tensor : image.tensors()) {
    (tensor.device == nullptr ? sizes.host_nbytes : sizes.device_nbytes) += tensor.nbytes;
  }
  return sizes;
}

Snapshot::~Snapshot() {
  // Also when a copy failed: what is in the stream must have ended before its memory goes.
  for (const Part& part : parts_) part.lane->stream.drain();
  for (Part& part : parts_) part.lane->staging.snapshots.keep(std::move(part.on_host));
  if (host_memory_ != nullptr) host_memory_->keep(std::move(host_));
}

void Snapshot::copy_host_payloads(FileImage& image, int num_threads) {
  // What was put on its way to the host by copy_to_host is none of them, and not there yet.
  const auto is_callers = [this](const TensorRef& tensor) {
    return tensor.device == nullptr && part_with(tensor.layout.data) == nullptr;
  };
  uint64_t total = 0;
  for (const TensorRef& tensor : image.tensors()) {
    if (is_callers(tensor)) total += align_up(tensor.nbytes);
  }
  host_ = host_memory_ != nullptr ? host_memory_->take(total) : Pages(total);
  std::vector<HostLayout> sources;
  std::byte* to = host_.data();
  struct Copy {
    size_t source;
    uint64_t begin;
    uint64_t nbytes;
    std::byte* to;
  };
  std::vector<Copy> copies;
  image.relocate_payloads([&](TensorRef& tensor) {
    if (!is_callers(tensor)) return;
    for (uint64_t begin = 0; begin < tensor.nbytes; begin += kHostCopyBytes) {
      const uint64_t nbytes = std::min(kHostCopyBytes, tensor.nbytes - begin);
      copies.push_back({sources.size(), begin, nbytes, to + begin});
    }
    sources.push_back(std::move(tensor.layout));
    tensor.layout = {};
    tensor.layout.data = to;
    to += align_up(tensor.nbytes);
  });
  const CancelFlag never{false};
  for_each_item(0, copies.size(), num_threads, never, [&](uint64_t item, int) {
    const Copy& copy = copies[item];
    const HostLayout& source = sources[copy.source];
    const ByteSpan place{copy.to, copy.nbytes};
    if (source.is_payload()) {
      stream_copy({source.data + copy.begin, copy.nbytes}, place);
    } else {
      copy_payload(source, copy.begin, place);
    }
  });
}

// From here on the destructor waits for what is put into the streams.
std::span<Snapshot::Part> Snapshot::adopt(std::vector<Part> parts) {
  MINDCKPT_CHECK(parts_.empty());
  parts_ = std::move(parts);
  return parts_;
}

void Snapshot::copy_on_devices(FileImage& image, const CopyLanes& lanes) {
  std::vector<Part> parts;
  for (const auto& lane : lanes.all()) {
    Part& part = parts.emplace_back();
    part.lane = lane.get();
    part.on_device = DeviceMemory(lane->device, room_for(image, *lane));
  }
  for (Part& part : adopt(std::move(parts))) {
    const DeviceBinding binding(part.lane->device);
    std::vector<DeviceStream::Copy> copies;
    std::byte* to = part.on_device.data();
    image.relocate_payloads([&](TensorRef& tensor) {
      if (tensor.device != &part.lane->device) return;
      const AlignedCopy copy = part.lane->aligned(tensor.layout.data, tensor.nbytes);
      copies.push_back({to, copy.from, copy.nbytes});
      tensor.layout.data = to + copy.skew;
      to += align_up(copy.nbytes);
    });
    part.lane->stream.copy(copies, CopyDirection::kOnDevice);
    part.copied = std::make_unique<DeviceEvent>(part.lane->device, EventUse::kHost);
    part.copied->record(part.lane->stream.get());
  }
}

void Snapshot::copy_to_host(FileImage& image, const CopyLanes& lanes) {
  std::vector<Part> parts;
  try {
    for (const auto& lane : lanes.all()) {
      Part& part = parts.emplace_back();
      part.lane = lane.get();
      part.on_host = lane->staging.snapshots.take(room_for(image, *lane));
    }
  } catch (...) {
    for (Part& part : parts) part.lane->staging.snapshots.keep(std::move(part.on_host));
    throw;
  }
  for (Part& part : adopt(std::move(parts))) {
    CopyLane& lane = *part.lane;
    const DeviceBinding binding(lane.device);
    part.begun = Clock::now();
    std::byte* const begin = part.on_host.data();
    std::byte* to = begin;
    std::vector<DeviceStream::Copy> copies;
    uint64_t pending = 0;
    const auto enqueue = [&](std::byte* end) {
      lane.stream.copy(copies, CopyDirection::kToHost);
      copies.clear();
      pending = 0;
      DeviceEvent event(lane.device, EventUse::kHost);
      event.record(lane.stream.get());
      part.marks.push_back({static_cast<uint64_t>(end - begin), std::move(event)});
    };
    image.relocate_payloads([&](TensorRef& tensor) {
      if (tensor.device != &lane.device) return;
      const AlignedCopy copy = lane.aligned(tensor.layout.data, tensor.nbytes);
      for (uint64_t at = 0; at < copy.nbytes; at += kMarkBytes) {
        const uint64_t nbytes = std::min(kMarkBytes, copy.nbytes - at);
        copies.push_back({to + at, copy.from + at, nbytes});
        pending += nbytes;
        if (pending >= kMarkBytes) enqueue(to + at + nbytes);
      }
      tensor.layout.data = to + copy.skew;
      tensor.device = nullptr;
      to += align_up(copy.nbytes);
    });
    if (!copies.empty()) enqueue(to);
    part.arrivals->when = std::vector<std::atomic<Clock::rep>>(part.marks.size());
    part.copied = std::make_unique<DeviceEvent>(lane.device, EventUse::kHost);
    part.copied->record(lane.stream.get());
  }
}

// The part whose pinned memory the pointer is in, if any.
const Snapshot::Part* Snapshot::part_with(const std::byte* pointer) const {
  for (const Part& part : parts_) {
    const std::byte* const begin = part.on_host.data();
    if (begin != nullptr && pointer >= begin && pointer < begin + part.on_host.size()) return &part;
  }
  return nullptr;
}

// The first mark behind a byte.
size_t Snapshot::mark_of(const Part& part, const std::byte* last) {
  const auto end = static_cast<uint64_t>(last + 1 - part.on_host.data());
  const auto mark = std::ranges::lower_bound(part.marks, end, {}, &Part::Mark::end);
  MINDCKPT_CHECK(mark != part.marks.end());
  return static_cast<size_t>(mark - part.marks.begin());
}

void Snapshot::wait_for_mark(const Part& part, size_t mark) {
  Part::Arrivals& arrivals = *part.arrivals;
  if (arrivals.count.load(std::memory_order_acquire) > mark) return;
  {
    const DeviceBinding binding(part.lane->device);
    part.marks[mark].event.sync();
  }
  Clock::rep never = 0;
  arrivals.when[mark].compare_exchange_strong(never, Clock::now().time_since_epoch().count());
  // Copies of one stream arrive in order: what several threads store is never taken for more.
  arrivals.count.store(mark + 1, std::memory_order_release);
}

void Snapshot::wait_for(ByteView bytes) const {
  if (const Part* const part = part_with(bytes.data())) {
    wait_for_mark(*part, mark_of(*part, bytes.data() + bytes.size() - 1));
  }
}

std::optional<Snapshot::Span> Snapshot::copied(ByteView bytes) const {
  const Part* const part = part_with(bytes.data());
  if (part == nullptr) return std::nullopt;
  const auto& when = part->arrivals->when;
  const auto seen = [&](size_t mark) {
    return Clock::time_point(Clock::duration(when[mark].load(std::memory_order_relaxed)));
  };
  size_t before = mark_of(*part, bytes.data());
  size_t last = mark_of(*part, bytes.data() + bytes.size() - 1);
  while (last + 1 < when.size() && seen(last) == Clock::time_point()) ++last;
  while (before > 0 && seen(before - 1) == Clock::time_point()) --before;
  return Span{before > 0 ? seen(before - 1) : part->begun, seen(last)};
}

void Snapshot::hold_up(const std::vector<Producer>& producers) const {
  for (const Producer& producer : producers) {
    const DeviceBinding binding(*producer.device);
    for (const Part& part : parts_) {
      stream_wait(*producer.device, producer.stream, *part.copied);
    }
  }
}

void Snapshot::wait_until_copied() const {
  for (const Part& part : parts_) {
    for (size_t mark = 0; mark < part.marks.size(); ++mark) wait_for_mark(part, mark);
    const DeviceBinding binding(part.lane->device);
    part.copied->sync();
  }
}

}  // namespace mindckpt
