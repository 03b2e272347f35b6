#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/memory.h"
#include "device/host_snapshot_memory.h"
#include "engine/copy_lanes.h"
#include "engine/stats.h"
#include "image/file_image.h"

namespace mindckpt {

// Copies of an image's payloads, so that the parameters may change while the image is written. The
// image's payloads are relocated to the copies. Copies of device memory are put into the lanes'
// streams, and no call waits for them; the lanes must outlive the snapshot.
class Snapshot {
 public:
  // Memory for what is in host memory is taken from `host_memory`, where there is one.
  explicit Snapshot(HostSnapshotMemory* host_memory = nullptr) : host_memory_(host_memory) {}
  ~Snapshot();  // waits for the copies
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;

  // Copies the payloads in host memory, on `num_threads` threads, before it returns. Throws
  // std::bad_alloc.
  void copy_host_payloads(FileImage& image, int num_threads);

  // Copies the payloads of device memory within it, once. Throws Error(kDevice): also for no
  // memory, in which case nothing was begun, and another way may be tried.
  void copy_on_devices(FileImage& image, const CopyLanes& lanes);

  // Copies them to pinned host memory, of which each part can be used once wait_for() has returned.
  // The same errors.
  void copy_to_host(FileImage& image, const CopyLanes& lanes);

  // Waits until `bytes` have arrived, when they lie in a snapshot that is still being copied.
  void wait_for(ByteView bytes) const;

  // When the copies ran that brought `bytes`, after wait_for(); nothing where a device brought
  // none. As seen by whoever waited for them first: no earlier than they really ended.
  struct Span {
    Clock::time_point begin;
    Clock::time_point end;
  };
  std::optional<Span> copied(ByteView bytes) const;

  // The streams wait for the copies of device memory; then the producers may overwrite it.
  void hold_up(const std::vector<Producer>& producers) const;
  // The same for this thread.
  void wait_until_copied() const;
  bool copies_devices() const noexcept { return !parts_.empty(); }

 private:
  // What one lane copies, and where to.
  struct Part {
    CopyLane* lane = nullptr;
    DeviceMemory on_device;
    PinnedMemory on_host;
    // How far the copies have come when an event has happened, in bytes of on_host.
    struct Mark {
      uint64_t end;
      DeviceEvent event;
    };
    std::vector<Mark> marks;
    std::unique_ptr<DeviceEvent> copied;  // all of it
    Clock::time_point begun;
    // What is known of the marks.
    struct Arrivals {
      std::atomic<size_t> count{0};               // how many have been reached
      std::vector<std::atomic<Clock::rep>> when;  // each was first seen to be; 0: not by itself
    };
    std::unique_ptr<Arrivals> arrivals = std::make_unique<Arrivals>();
  };

  std::span<Part> adopt(std::vector<Part> parts);
  const Part* part_with(const std::byte* pointer) const;
  static size_t mark_of(const Part& part, const std::byte* last);
  static void wait_for_mark(const Part& part, size_t mark);

  HostSnapshotMemory* const host_memory_;
  Pages host_;
  std::vector<Part> parts_;
};

// Bytes of all payloads in host memory, and in devices' memory.
struct PayloadSizes {
  uint64_t host_nbytes = 0;
  uint64_t device_nbytes = 0;
};
PayloadSizes payload_sizes(const FileImage& image);

}  // namespace mindckpt
