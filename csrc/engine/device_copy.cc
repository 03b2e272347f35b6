#include "engine/device_copy.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"
#include "base/memory.h"

namespace mindckpt {

namespace {

constexpr uint64_t kChunkBytes = uint64_t{4} << 20;

// A copy under way and the memory that it uses on the host.
struct Chunk {
  StagingPool::Lease lease;
  DeviceEvent ended;
  ByteSpan host;  // where it goes, on the way from the device
  uint64_t skew = 0;
};

class Copier {
 public:
  Copier(DeviceStaging& staging, CopyDirection direction, std::optional<void*> producer)
      : staging_(staging), binding_(staging.device), stream_(staging.device, direction) {
    if (producer) stream_.start_after({&staging.device, *producer});
  }
  // Copies under way end before their memory goes.
  ~Copier() { stream_.drain(); }
  Copier(const Copier&) = delete;
  Copier& operator=(const Copier&) = delete;

  void from_device(const std::byte* from, ByteSpan to, const CancelFlag& cancel) {
    const uint64_t alignment = staging_.device.backend().copy_alignment();
    for (size_t turn = 0; !to.empty(); ++turn) {
      std::optional<Chunk>& chunk = chunks_[turn % chunks_.size()];
      finish(chunk);
      const uint64_t nbytes = std::min<uint64_t>(chunk_nbytes(), to.size());
      const uint64_t skew = reinterpret_cast<uintptr_t>(from) & (alignment - 1);
      chunk.emplace(Chunk{room_for(nbytes + skew, cancel),
                          DeviceEvent(staging_.device, EventUse::kHost), to.first(nbytes), skew});
      stream_.copy(chunk->lease.span().data(), from - skew, nbytes + skew, CopyDirection::kToHost);
      chunk->ended.record(stream_.get());
      from += nbytes;
      to = to.subspan(nbytes);
    }
    for (auto& chunk : chunks_) finish(chunk);
  }

  void to_device(ByteView from, std::byte* to, const CancelFlag& cancel) {
    if (reinterpret_cast<uintptr_t>(to) % staging_.device.backend().copy_alignment() != 0) {
      throw Error(ErrorKind::kInvalidArgument,
                  staging_.device.name() + " copies to aligned memory only, not into this view");
    }
    for (size_t turn = 0; !from.empty(); ++turn) {
      std::optional<Chunk>& chunk = chunks_[turn % chunks_.size()];
      finish(chunk);
      const uint64_t nbytes = std::min<uint64_t>(chunk_nbytes(), from.size());
      chunk.emplace(
          Chunk{room_for(nbytes, cancel), DeviceEvent(staging_.device, EventUse::kHost), {}, 0});
      std::memcpy(chunk->lease.span().data(), from.data(), nbytes);
      stream_.copy(to, chunk->lease.span().data(), nbytes, CopyDirection::kToDevice);
      chunk->ended.record(stream_.get());
      from = from.subspan(nbytes);
      to += nbytes;
    }
    for (auto& chunk : chunks_) finish(chunk);
  }

 private:
  uint64_t chunk_nbytes() const {
    const uint64_t limit = staging_.pool.stats().limit_nbytes;
    return std::min(kChunkBytes, std::max<uint64_t>(limit / 4 / kPageBytes, 1) * kPageBytes);
  }

  // Nobody waits for room while it has some: two who did would wait for each other.
  StagingPool::Lease room_for(uint64_t nbytes, const CancelFlag& cancel) {
    if (auto room = staging_.pool.try_acquire(nbytes)) return std::move(*room);
    for (auto& chunk : chunks_) finish(chunk);
    return staging_.pool.acquire(nbytes, cancel);
  }

  static void finish(std::optional<Chunk>& chunk) {
    if (!chunk) return;
    chunk->ended.sync();
    if (!chunk->host.empty()) {
      std::memcpy(chunk->host.data(), chunk->lease.span().data() + chunk->skew, chunk->host.size());
    }
    chunk.reset();
  }

  DeviceStaging& staging_;
  DeviceBinding binding_;
  // Two, so that one is copied by the device while the other is by this thread. They go after the
  // stream was waited for.
  std::array<std::optional<Chunk>, 2> chunks_;
  DeviceStream stream_;
};

}  // namespace

void copy_from_device(DeviceStaging& staging, std::optional<void*> stream, const std::byte* from,
                      ByteSpan to, const CancelFlag& cancel) {
  Copier(staging, CopyDirection::kToHost, stream).from_device(from, to, cancel);
}

void copy_to_device(DeviceStaging& staging, std::optional<void*> stream, ByteView from,
                    std::byte* to, const CancelFlag& cancel) {
  Copier(staging, CopyDirection::kToDevice, stream).to_device(from, to, cancel);
}

}  // namespace mindckpt
