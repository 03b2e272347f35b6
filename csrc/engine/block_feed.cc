#include "engine/block_feed.h"

#include <algorithm>

#include "base/error.h"

namespace mindckpt {

namespace {

// Where pieces begin in a staging buffer: what every device's copies are content with.
constexpr uint64_t kPieceAlignment = 256;

constexpr uint64_t align_up(uint64_t nbytes) {
  return (nbytes + kPieceAlignment - 1) / kPieceAlignment * kPieceAlignment;
}

}  // namespace

BlockFeed::BlockFeed(const FileImage& image, const CopyLanes& lanes, const Snapshot* snapshot,
                     const CancelFlag& cancel, Trace* trace)
    : image_(image), lanes_(lanes), snapshot_(snapshot), cancel_(cancel), trace_(trace) {
  // A snapshot may have taken all of them to the host.
  const bool on_device = std::ranges::any_of(
      image.tensors(), [](const TensorRef& tensor) { return tensor.device != nullptr; });
  if (!on_device) next_ = image.num_blocks();
  all_issued_ = next_ == image.num_blocks();
}

BlockFeed::~BlockFeed() {
  if (staged_.empty()) return;
  for (const auto& lane : lanes_.all()) lane->stream.drain();
}

BlockFeed::Block BlockFeed::take(uint64_t block) {
  Staged staged;
  if (!lanes_.empty()) {
    std::unique_lock lock(mutex_);
    try {
      issue_ahead();
      issue_through(block, lock);
    } catch (...) {
      fail();
      throw;
    }
    if (const auto found = staged_.find(block); found != staged_.end()) {
      staged = std::move(found->second);
      staged_.erase(found);
    }
  }
  if (staged.arrivals.empty()) {
    staged.block.pieces = image_.pieces(image_.block_begin(block), image_.block_nbytes(block));
    wait_for_snapshot(block, staged.block.pieces);
    return std::move(staged.block);
  }
  wait_for(block, staged);
  return std::move(staged.block);
}

void BlockFeed::refill() {
  if (all_issued()) return;
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return;  // whoever has the mutex is at it
  try {
    issue_ahead();
  } catch (...) {
    fail();
    throw;
  }
}

// Called with the mutex, from a handler. A block whose copies were not issued can't be taken, so no
// other one is from now on; and what was issued is let go, as others may wait for its room.
void BlockFeed::fail() noexcept {
  if (!failed_) failed_ = std::current_exception();
  for (const auto& lane : lanes_.all()) lane->stream.drain();
  staged_.clear();
}

void BlockFeed::issue_through(uint64_t block, std::unique_lock<std::mutex>& lock) {
  while (true) {
    if (failed_) std::rethrow_exception(failed_);
    if (next_ > block) return;
    if (waiting_for_room_) {
      issued_.wait(lock);
      continue;
    }
    Plan& plan = plan_next();
    StagingPool::Lease lease;
    if (plan.staging_nbytes > 0) {
      // Others take their blocks meanwhile, without which no room would ever come back.
      StagingPool& pool = plan.pool_lane->staging.pool;
      const uint64_t nbytes = plan.staging_nbytes;
      waiting_for_room_ = true;
      lock.unlock();
      try {
        lease = pool.acquire(nbytes, cancel_);
      } catch (...) {
        lock.lock();
        waiting_for_room_ = false;
        issued_.notify_all();
        throw;
      }
      lock.lock();
      waiting_for_room_ = false;
      issued_.notify_all();
      if (failed_) std::rethrow_exception(failed_);
    }
    issue_next(std::move(lease));
  }
}

void BlockFeed::issue_ahead() {
  if (failed_) std::rethrow_exception(failed_);
  if (waiting_for_room_) return;
  while (next_ < image_.num_blocks()) {
    Plan& plan = plan_next();
    StagingPool::Lease lease;
    if (plan.staging_nbytes > 0) {
      auto room = plan.pool_lane->staging.pool.try_acquire(plan.staging_nbytes);
      if (!room) return;
      lease = std::move(*room);
    }
    issue_next(std::move(lease));
  }
}

BlockFeed::Plan& BlockFeed::plan_next() {
  if (plan_) return *plan_;
  Plan plan;
  plan.pieces = image_.pieces(image_.block_begin(next_), image_.block_nbytes(next_));
  for (const FileImage::Piece& piece : plan.pieces) {
    if (piece.device == nullptr) continue;
    CopyLane& lane = lanes_.of(piece.device);
    if (plan.pool_lane == nullptr) plan.pool_lane = &lane;
    const auto copy = lane.aligned(piece.payload->data + piece.offset, piece.nbytes);
    plan.staging_nbytes += align_up(copy.nbytes);
  }
  return plan_.emplace(std::move(plan));
}

// Puts the next block's copies into the streams.
void BlockFeed::issue_next(StagingPool::Lease lease) {
  Plan plan = std::move(*plan_);
  plan_.reset();
  const uint64_t block = next_++;
  if (plan.staging_nbytes > 0) issue(block, std::move(plan), std::move(lease));
  // Only now: whoever reads it records an event behind the copies.
  if (next_ == image_.num_blocks()) all_issued_.store(true, std::memory_order_release);
}

void BlockFeed::issue(uint64_t block, Plan plan, StagingPool::Lease lease) {
  // In its place before a copy is under way: when something is thrown, fail() waits for the copies
  // before the lease goes.
  Staged& staged = staged_[block];
  staged.issued = Clock::now();
  staged.block.pieces = std::move(plan.pieces);
  std::byte* to = lease.span().data();
  staged.block.lease = std::move(lease);
  for (const auto& lane : lanes_.all()) {
    std::vector<DeviceStream::Copy> copies;
    for (FileImage::Piece& piece : staged.block.pieces) {
      if (piece.device != &lane->device) continue;
      const auto copy = lane->aligned(piece.payload->data + piece.offset, piece.nbytes);
      copies.push_back({to, copy.from, copy.nbytes});
      piece = {nullptr, 0, {to + copy.skew, piece.nbytes}, piece.nbytes};
      to += align_up(copy.nbytes);
    }
    if (copies.empty()) continue;
    const DeviceBinding binding(lane->device);
    DeviceEvent arrived = event_of(*lane);
    lane->stream.copy(copies, CopyDirection::kToHost);
    arrived.record(lane->stream.get());
    staged.arrivals.push_back({lane.get(), std::move(arrived)});
  }
}

DeviceEvent BlockFeed::event_of(const CopyLane& lane) {
  const auto spare = std::ranges::find_if(
      spare_events_, [&](const auto& candidate) { return candidate.first == &lane; });
  if (spare == spare_events_.end()) return DeviceEvent(lane.device, EventUse::kHost);
  DeviceEvent event = std::move(spare->second);
  spare_events_.erase(spare);
  return event;
}

void BlockFeed::wait_for_snapshot(uint64_t block, const std::vector<FileImage::Piece>& pieces) {
  if (snapshot_ == nullptr) return;
  std::optional<Snapshot::Span> copied;
  for (const FileImage::Piece& piece : pieces) {
    MINDCKPT_CHECK(piece.device == nullptr);
    if (piece.payload == nullptr || !piece.payload->is_payload()) continue;
    const ByteView bytes(piece.payload->data + piece.offset, piece.nbytes);
    snapshot_->wait_for(bytes);
    if (trace_ == nullptr) continue;
    if (const auto span = snapshot_->copied(bytes)) {
      copied = copied ? Snapshot::Span{std::min(copied->begin, span->begin),
                                       std::max(copied->end, span->end)}
                      : *span;
    }
  }
  if (copied) trace_->add("copy", -1, block, copied->begin, copied->end);
}

void BlockFeed::wait_for(uint64_t block, Staged& staged) {
  for (const Arrival& arrival : staged.arrivals) {
    try {
      const DeviceBinding binding(arrival.lane->device);
      arrival.event.sync();
    } catch (...) {
      for (const auto& lane : lanes_.all()) lane->stream.drain();
      throw;
    }
  }
  const std::lock_guard lock(mutex_);
  if (trace_ != nullptr) {
    // As seen from here: the copy began when the one before it had ended, at the earliest.
    const auto end = Clock::now();
    trace_->add("copy", -1, block, std::max(staged.issued, std::min(last_arrival_, end)), end);
    last_arrival_ = std::max(last_arrival_, end);
  }
  for (Arrival& arrival : staged.arrivals) {
    spare_events_.emplace_back(arrival.lane, std::move(arrival.event));
  }
}

}  // namespace mindckpt
