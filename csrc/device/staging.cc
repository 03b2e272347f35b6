#include "device/staging.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/memory.h"
#include "base/process.h"

namespace mindckpt {

namespace {

// What is pinned at once: small enough for a small model's first save not to wait for a large pool,
// and as large as the largest block.
constexpr uint64_t kSlabBytes = uint64_t{64} << 20;

// At least one: two leases of none would begin at the same place.
constexpr size_t round_to_pages(uint64_t nbytes) {
  return std::max<uint64_t>(1, (nbytes + kPageBytes - 1) / kPageBytes) * kPageBytes;
}

}  // namespace

StagingPool::Lease& StagingPool::Lease::operator=(Lease&& other) noexcept {
  if (this != &other) {
    give_back();
    pool_ = std::exchange(other.pool_, nullptr);
    slab_ = other.slab_;
    span_ = std::exchange(other.span_, {});
  }
  return *this;
}

void StagingPool::Lease::give_back() noexcept {
  if (pool_ != nullptr) std::exchange(pool_, nullptr)->give_back(slab_, span_);
}

StagingPool::StagingPool(const Device& device, uint64_t limit_nbytes)
    : device_(device), limit_nbytes_(limit_nbytes) {}

StagingPool::~StagingPool() = default;

StagingPool::Lease StagingPool::acquire(uint64_t nbytes, const CancelFlag& cancel) {
  const size_t rounded = round_to_pages(nbytes);
  std::unique_lock lock(mutex_);
  const char ticket = 0;  // its address tells this call from others
  waiting_.push_back(&ticket);
  const auto leave = [&] {
    std::erase(waiting_, &ticket);
    room_.notify_all();
  };
  bool waited = false;
  try {
    while (true) {
      if (rounded > limit_nbytes_) {
        throw Error(ErrorKind::kInvalidArgument,
                    "a block of " + std::to_string(nbytes) + " bytes does not fit the " +
                        std::to_string(limit_nbytes_) + " bytes of staging memory of " +
                        device_.name());
      }
      if (waiting_.front() == &ticket) {
        if (auto lease = carve(rounded)) {
          waits_ += waited ? 1 : 0;
          leave();
          return std::move(*lease);
        }
      }
      waited = true;
      // Woken by leases that come back; looks up by itself to see a cancel.
      room_.wait_for(lock, std::chrono::milliseconds(50));
      if (is_cancelled(cancel)) throw Error(ErrorKind::kCancelled, "cancelled");
    }
  } catch (...) {
    leave();
    throw;
  }
}

std::optional<StagingPool::Lease> StagingPool::try_acquire(uint64_t nbytes) {
  const size_t rounded = round_to_pages(nbytes);
  const std::lock_guard lock(mutex_);
  if (rounded > limit_nbytes_ || !waiting_.empty()) return std::nullopt;
  return carve(rounded);
}

// The first run that is long enough, of what is pinned or can be.
std::optional<StagingPool::Lease> StagingPool::carve(size_t nbytes) {
  do {
    for (size_t i = 0; i < slabs_.size(); ++i) {
      if (slabs_[i] == nullptr) continue;
      Slab& slab = *slabs_[i];
      const auto run =
          std::ranges::find_if(slab.free_runs, [&](const auto& r) { return r.second >= nbytes; });
      if (run == slab.free_runs.end()) continue;
      const auto [begin, length] = *run;
      slab.free_runs.erase(run);
      if (length > nbytes) slab.free_runs.emplace(begin + nbytes, length - nbytes);
      in_use_nbytes_ += nbytes;
      peak_in_use_nbytes_ = std::max(peak_in_use_nbytes_, in_use_nbytes_);
      ++leases_;
      return Lease(this, i, {slab.memory.data() + begin, nbytes});
    }
  } while (grow(nbytes));
  return std::nullopt;
}

// Pins another slab within the limit. When that fails while others are there, they have to do.
bool StagingPool::grow(size_t nbytes) {
  const uint64_t left = limit_nbytes_ - std::min(limit_nbytes_, pinned_nbytes_);
  const uint64_t slab_nbytes =
      std::min(std::max<uint64_t>(nbytes, kSlabBytes), left) / kPageBytes * kPageBytes;
  if (slab_nbytes < nbytes || slab_nbytes == 0) {
    // Slabs that no lease uses may be too small: their room serves a larger one.
    if (in_use_nbytes_ > 0 || pinned_nbytes_ == 0) return false;
    slabs_.clear();
    pinned_nbytes_ = 0;
    return grow(nbytes);
  }
  try {
    auto slab = std::make_unique<Slab>();
    slab->memory = PinnedMemory(device_, slab_nbytes);
    slab->free_runs.emplace(0, slab_nbytes);
    slabs_.push_back(std::move(slab));
  } catch (const Error&) {
    if (in_use_nbytes_ == 0) throw;
    return false;
  }
  pinned_nbytes_ += slab_nbytes;
  return true;
}

void StagingPool::give_back(size_t index, ByteSpan span) noexcept {
  {
    const std::lock_guard lock(mutex_);
    Slab& slab = *slabs_[index];
    size_t begin = static_cast<size_t>(span.data() - slab.memory.data());
    size_t length = span.size();
    in_use_nbytes_ -= length;
    // Joined with the free neighbours.
    const auto next = slab.free_runs.lower_bound(begin);
    if (next != slab.free_runs.begin()) {
      const auto previous = std::prev(next);
      if (previous->first + previous->second == begin) {
        begin = previous->first;
        length += previous->second;
        slab.free_runs.erase(previous);
      }
    }
    if (next != slab.free_runs.end() && begin + length == next->first) {
      length += next->second;
      slab.free_runs.erase(next);
    }
    slab.free_runs.emplace(begin, length);
    if (pinned_nbytes_ > limit_nbytes_) unpin_free_slabs();
  }
  room_.notify_all();
}

void StagingPool::unpin_free_slabs() noexcept {
  for (auto& slab : slabs_) {
    if (slab == nullptr || !slab->is_free()) continue;
    pinned_nbytes_ -= slab->memory.size();
    slab.reset();
  }
  while (!slabs_.empty() && slabs_.back() == nullptr) slabs_.pop_back();
}

void StagingPool::trim() {
  const std::lock_guard lock(mutex_);
  unpin_free_slabs();
}

void StagingPool::set_limit(uint64_t nbytes) {
  const std::lock_guard lock(mutex_);
  limit_nbytes_ = nbytes;
  if (pinned_nbytes_ > limit_nbytes_) unpin_free_slabs();
  room_.notify_all();
}

StagingPool::Stats StagingPool::stats() const {
  const std::lock_guard lock(mutex_);
  return {limit_nbytes_, pinned_nbytes_, in_use_nbytes_, peak_in_use_nbytes_, leases_, waits_};
}

PinnedMemory SnapshotMemory::take(uint64_t nbytes) {
  const size_t rounded = round_to_pages(nbytes);
  {
    const std::lock_guard lock(mutex_);
    // The smallest that will do; when there is none, the others make room for what is pinned anew.
    std::ranges::sort(kept_, {}, &PinnedMemory::size);
    const auto fits =
        std::ranges::find_if(kept_, [&](const PinnedMemory& m) { return m.size() >= rounded; });
    if (fits != kept_.end()) {
      PinnedMemory memory = std::move(*fits);
      kept_.erase(fits);
      return memory;
    }
  }
  trim();
  PinnedMemory memory(device_, rounded);
  const std::lock_guard lock(mutex_);
  pinned_nbytes_ += rounded;
  return memory;
}

void SnapshotMemory::keep(PinnedMemory memory) noexcept {
  if (memory.size() == 0) return;
  const std::lock_guard lock(mutex_);
  try {
    kept_.push_back(std::move(memory));
  } catch (const std::bad_alloc&) {
    pinned_nbytes_ -= memory.size();  // it goes back to the system instead
  }
}

void SnapshotMemory::trim() {
  std::vector<PinnedMemory> unneeded;
  const std::lock_guard lock(mutex_);
  unneeded.swap(kept_);
  for (const PinnedMemory& memory : unneeded) pinned_nbytes_ -= memory.size();
}

uint64_t SnapshotMemory::pinned_nbytes() const {
  const std::lock_guard lock(mutex_);
  return pinned_nbytes_;
}

uint64_t SnapshotMemory::kept_nbytes() const {
  const std::lock_guard lock(mutex_);
  uint64_t nbytes = 0;
  for (const PinnedMemory& memory : kept_) nbytes += memory.size();
  return nbytes;
}

StagingPools::StagingPools(uint64_t limit_nbytes)
    : limit_nbytes_(limit_nbytes), state_(new State{process_id(), {}, {}}) {}

StagingPools::~StagingPools() {
  State* const last = state_.load();
  if (last->process == process_id()) delete last;
}

// The parent's is left as it is: its locks are in no state to be destroyed.
StagingPools::State& StagingPools::state() const {
  State* known = state_.load(std::memory_order_acquire);
  if (known->process == process_id()) return *known;
  auto made = std::unique_ptr<State>(new State{process_id(), {}, {}});
  if (state_.compare_exchange_strong(known, made.get(), std::memory_order_acq_rel)) {
    return *made.release();
  }
  return *known;  // another thread was first
}

DeviceStaging& StagingPools::of(const Device& device) {
  device.backend().check_process();
  State& own = state();
  const std::lock_guard lock(own.mutex);
  for (const auto& staging : own.staging) {
    if (&staging->device == &device) return *staging;
  }
  return *own.staging.emplace_back(std::make_unique<DeviceStaging>(device, limit_nbytes_));
}

std::vector<DeviceStaging*> StagingPools::all() const {
  State& own = state();
  const std::lock_guard lock(own.mutex);
  std::vector<DeviceStaging*> all;
  for (const auto& staging : own.staging) all.push_back(staging.get());
  return all;
}

void StagingPools::trim() {
  host_snapshots_.trim();
  for (DeviceStaging* staging : all()) {
    staging->pool.trim();
    staging->snapshots.trim();
  }
}

void StagingPools::set_limit(uint64_t nbytes) {
  limit_nbytes_ = nbytes;
  // One that is made meanwhile has the new limit, or is among these.
  for (DeviceStaging* staging : all()) staging->pool.set_limit(nbytes);
}

}  // namespace mindckpt
