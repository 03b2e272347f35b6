#include "engine/uploads.h"

#include <algorithm>

#include "base/error.h"
#include "base/memory.h"

namespace mindckpt {

namespace {

// One is copied while the next is read; a third keeps the copy engine busy when a block comes late.
constexpr size_t kMaxInFlight = 2;

}  // namespace

Uploads::Uploads(const std::vector<const Device*>& devices, StagingPools& pools,
                 const std::vector<Producer>& producers, int num_threads)
    : workers_(static_cast<size_t>(num_threads)) {
  for (const Device* device : devices) {
    const auto same = [&](const auto& lane) { return &lane->device == device; };
    if (std::ranges::any_of(lanes_, same)) continue;
    lanes_.push_back(std::make_unique<Lane>(*device, pools.of(*device)));
  }
  MINDCKPT_CHECK(!lanes_.empty());
  for (const Producer& producer : producers) {
    lane_of(*producer.device).stream.start_after(producer);
  }
}

Uploads::~Uploads() {
  for (const auto& lane : lanes_) lane->stream.drain();
}

ByteSpan Uploads::begin(int worker_index, uint64_t nbytes, const CancelFlag& cancel) {
  Worker& worker = workers_[static_cast<size_t>(worker_index)];
  while (worker.in_flight.size() >= kMaxInFlight) wait_for_oldest(worker);
  // All blocks' memory is of one device's pool: it is pinned for all of its backend.
  StagingPool& pool = lanes_.front()->staging.pool;
  auto room = pool.try_acquire(nbytes);
  if (!room) {
    // Nobody waits for room while it has some: two who did would wait for each other.
    while (!worker.in_flight.empty()) wait_for_oldest(worker);
    room = pool.acquire(nbytes, cancel);
  }
  worker.filling.lease = std::move(*room);
  return worker.filling.lease.span().first(nbytes);
}

void Uploads::copy(int worker_index, const Device& device, std::byte* to, ByteView from) {
  Worker& worker = workers_[static_cast<size_t>(worker_index)];
  Lane& lane = lane_of(device);
  const DeviceBinding binding(device);
  lane.stream.copy(to, from.data(), from.size(), CopyDirection::kToDevice);
  if (std::ranges::find(worker.used, &lane) == worker.used.end()) worker.used.push_back(&lane);
}

void Uploads::submit(int worker_index) {
  Worker& worker = workers_[static_cast<size_t>(worker_index)];
  for (Lane* lane : worker.used) {
    const DeviceBinding binding(lane->device);
    DeviceEvent ended(lane->device, EventUse::kHost);
    ended.record(lane->stream.get());
    worker.filling.ended.emplace_back(lane, std::move(ended));
  }
  worker.used.clear();
  if (worker.filling.ended.empty()) {
    worker.filling = {};
  } else {
    worker.in_flight.push_back(std::move(worker.filling));
    worker.filling = {};
  }
}

void Uploads::copy_through(int worker, const Device& device, std::byte* to, ByteView from,
                           const CancelFlag& cancel) {
  while (!from.empty()) {
    const uint64_t nbytes = std::min<uint64_t>(most_nbytes(), from.size());
    const ByteSpan staging = begin(worker, nbytes, cancel);
    std::ranges::copy(from.first(nbytes), staging.begin());
    copy(worker, device, to, staging);
    submit(worker);
    from = from.subspan(nbytes);
    to += nbytes;
  }
}

uint64_t Uploads::most_nbytes() const {
  return std::max<uint64_t>(lanes_.front()->staging.pool.stats().limit_nbytes / 2, kPageBytes);
}

void Uploads::finish(int worker_index) {
  Worker& worker = workers_[static_cast<size_t>(worker_index)];
  try {
    // What was put into a stream and not submitted, by a block that failed.
    if (!worker.used.empty()) submit(worker_index);
    while (!worker.in_flight.empty()) wait_for_oldest(worker);
    worker.filling = {};
  } catch (...) {
    for (const auto& lane : lanes_) lane->stream.drain();
    worker = {};
    throw;
  }
}

Uploads::Lane& Uploads::lane_of(const Device& device) const {
  for (const auto& lane : lanes_) {
    if (&lane->device == &device) return *lane;
  }
  MINDCKPT_CHECK(false);
}

void Uploads::wait_for_oldest(Worker& worker) {
  for (const auto& [lane, event] : worker.in_flight.front().ended) {
    const DeviceBinding binding(lane->device);
    event.sync();
  }
  worker.in_flight.erase(worker.in_flight.begin());
}

}  // namespace mindckpt
