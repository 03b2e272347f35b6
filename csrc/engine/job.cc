#include "engine/job.h"

#include <algorithm>
#include <utility>

#include "base/available_memory.h"
#include "base/error.h"
#include "base/process.h"
#include "storage/atomic_file.h"

namespace mindckpt {

namespace {

// A snapshot leaves this much of a device's memory to the training that goes on.
uint64_t reserve_nbytes(uint64_t device_total_nbytes) {
  return std::max<uint64_t>(device_total_nbytes / 20, uint64_t{256} << 20);
}

const char* policy_name(SnapshotPolicy policy) {
  switch (policy) {
    case SnapshotPolicy::kHost:
      return "host";
    case SnapshotPolicy::kDevice:
      return "device";
    case SnapshotPolicy::kLazy:
      return "lazy";
    case SnapshotPolicy::kNone:
    case SnapshotPolicy::kAuto:
      return "none";
  }
  MINDCKPT_CHECK(false);
}

std::string mib(uint64_t nbytes) { return std::to_string(nbytes >> 20) + " MiB"; }

}  // namespace

SaveJob::SaveJob(SaveRequest request)
    : called_(Clock::now()), request_(std::move(request)), process_(process_id()) {
  plan();
  begin_snapshot();
  stats_.seconds = seconds_since(called_);
}

void SaveJob::plan() {
  if (request_.num_threads == 0) request_.num_threads = default_num_threads();
  if (request_.block_bytes == 0) {
    request_.block_bytes = default_block_bytes(request_.cipher.get(), request_.num_threads);
    // Several must fit the pool, or nothing would be copied ahead.
    for (const TensorRef& tensor : request_.tensors) {
      if (tensor.device == nullptr) continue;
      const uint64_t limit = request_.staging->of(*tensor.device).pool.stats().limit_nbytes;
      request_.block_bytes = std::min(request_.block_bytes, std::max<uint64_t>(limit / 8, 4096));
      break;
    }
  }
  ImageOptions options{request_.block_bytes, request_.crc, std::nullopt};
  if (request_.cipher) {
    const FrameSizes sizes = pick_frames(*request_.cipher, request_.block_bytes);
    options.block_bytes = sizes.block_bytes;
    options.frame_bytes = sizes.frame_bytes;
    seal_ = {std::move(request_.cipher), {}};
    seal_.base = seal_.cipher->random_base();
    options.seal_iv_base = seal_.base;
  }
  image_ = FileImage::plan(std::move(request_.tensors), options);
  file_nbytes_ = seal_.file_nbytes(image_);
}

void SaveJob::begin_snapshot() {
  const PayloadSizes sizes = payload_sizes(image_);
  reads_host_payloads_ = request_.snapshot == SnapshotPolicy::kLazy && sizes.host_nbytes > 0;
  if (sizes.device_nbytes > 0) {
    MINDCKPT_CHECK(request_.staging != nullptr);
    lanes_ = std::make_unique<CopyLanes>(image_, *request_.staging);
    for (const Device* device : request_.synced_devices) device->sync();
    lanes_->start_after(request_.producers);
  } else {
    lanes_ = std::make_unique<CopyLanes>();
    // Host memory is copied one way only.
    if (request_.snapshot == SnapshotPolicy::kAuto ||
        request_.snapshot == SnapshotPolicy::kDevice) {
      request_.snapshot = SnapshotPolicy::kHost;
    }
  }
  snapshot_ = std::make_unique<Snapshot>(
      request_.staging != nullptr ? &request_.staging->host_snapshots() : nullptr);
  const auto start = Clock::now();
  // Device copies first: they run while the host's are made.
  switch (request_.snapshot) {
    case SnapshotPolicy::kAuto:
      pick_snapshot(sizes);
      break;
    case SnapshotPolicy::kDevice:
      snapshot_->copy_on_devices(image_, *lanes_);
      break;
    case SnapshotPolicy::kHost:
      if (sizes.device_nbytes > 0) snapshot_->copy_to_host(image_, *lanes_);
      break;
    case SnapshotPolicy::kNone:
    case SnapshotPolicy::kLazy:
      break;
  }
  stats_.snapshot = policy_name(request_.snapshot);
  if (request_.snapshot == SnapshotPolicy::kNone || request_.snapshot == SnapshotPolicy::kLazy) {
    return;
  }
  snapshot_->copy_host_payloads(image_, request_.num_threads);
  snapshot_->hold_up(request_.producers);
  if (request_.has_unknown_producer) snapshot_->wait_until_copied();
  staged_by_snapshot_ = true;
  if (!snapshot_->copies_devices() || request_.has_unknown_producer) reach(SaveState::kStaged);
  stats_.snapshot_seconds = seconds_since(start);
}

// The least of what the training stream has to wait for, of what there is memory for.
void SaveJob::pick_snapshot(const PayloadSizes& sizes) {
  std::string why_not_device;
  for (const auto& lane : lanes_->all()) {
    const Device::MemoryInfo memory = lane->device.memory_info();
    uint64_t needed = 0;
    for (const TensorRef& tensor : image_.tensors()) {
      if (tensor.device == &lane->device) needed += tensor.nbytes;
    }
    if (memory.free_nbytes < needed + reserve_nbytes(memory.total_nbytes)) {
      why_not_device = lane->device.name() + " has " + mib(memory.free_nbytes) + " free of " +
                       mib(memory.total_nbytes) + ", which is too little for " + mib(needed);
    }
  }
  if (why_not_device.empty()) {
    try {
      snapshot_->copy_on_devices(image_, *lanes_);
      request_.snapshot = SnapshotPolicy::kDevice;
      stats_.snapshot_reason = "there is device memory for a copy";
      return;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kDevice || snapshot_->copies_devices()) throw;
      why_not_device = error.what();
    }
  }
  if (fits_on_host(sizes)) {
    try {
      snapshot_->copy_to_host(image_, *lanes_);
      request_.snapshot = SnapshotPolicy::kHost;
      stats_.snapshot_reason = why_not_device;
      return;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kDevice || snapshot_->copies_devices()) throw;
      why_not_device += std::string("; ") + error.what();
    }
  } else {
    why_not_device += "; the host has " + mib(available_host_memory()) + " available, too little";
  }
  request_.snapshot = SnapshotPolicy::kNone;
  stats_.snapshot_reason = why_not_device;
  is_synchronous_ = true;
}

// Whether there is memory for a pinned snapshot: kept from an earlier save, or free.
bool SaveJob::fits_on_host(const PayloadSizes& sizes) const {
  uint64_t kept = 0;
  for (const auto& lane : lanes_->all()) kept += lane->staging.snapshots.kept_nbytes();
  return kept >= sizes.device_nbytes || available_host_memory() / 5 * 4 >= sizes.device_nbytes;
}

// Where there is memory for it, all copies are put into the streams at once, so that fence() finds
// them there. Else they go through the pool, block by block.
void SaveJob::begin_lazy_snapshot() {
  const PayloadSizes sizes = payload_sizes(image_);
  if (sizes.device_nbytes == 0) return;
  if (!fits_on_host(sizes)) {
    stats_.snapshot_reason = "the host has too little memory for a copy: staged through the pool";
    return;
  }
  try {
    snapshot_->copy_to_host(image_, *lanes_);
    staged_by_snapshot_ = sizes.host_nbytes == 0;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kDevice || snapshot_->copies_devices()) throw;
    stats_.snapshot_reason = std::string("staged through the pool: ") + error.what();
  }
}

SaveJob::~SaveJob() {
  cancel();
  thread_.reset();  // joins
}

bool SaveJob::start(std::shared_ptr<SaveJob> after) {
  if (after != nullptr && !after->done() && after->runs_here()) {
    throw Error(ErrorKind::kInternal,
                "the thread that makes a save can't start another one to the same file meanwhile");
  }
  MINDCKPT_CHECK(!started_.exchange(true));
  after_ = std::move(after);
  thread_ = start_thread([this] { run(); });
  if (!thread_) is_left_to_caller_.store(true);
  return thread_.has_value();
}

void SaveJob::run_here(const std::function<void()>& look) {
  const LookUp looking(look);
  // Nothing that throws comes between this and run(): nobody else would end the job.
  if (!is_left_to_caller_.exchange(false)) return;
  run();
}

void SaveJob::cancel() noexcept {
  cancel_.store(true, std::memory_order_relaxed);
  if (!is_left_to_caller_.exchange(false)) return;
  try {
    check_not_cancelled(cancel_);
  } catch (...) {
    error_ = std::current_exception();
  }
  end();
}

void SaveJob::run() noexcept {
  runner_.store(std::this_thread::get_id());
  try {
    run_save();
    if (request_.durable) reach(SaveState::kDurable);
  } catch (...) {
    error_ = std::current_exception();
  }
  end();
}

void SaveJob::end() noexcept {
  // A finished job may be kept for long; its key, its data and its predecessors need not be.
  after_.reset();
  release();
  settle_all(error_);
  const std::lock_guard lock(mutex_);
  done_.store(true, std::memory_order_release);
  changed_.notify_all();
}

void SaveJob::run_save() {
  // Watches the snapshot while this thread may have to wait for another save, and then writes.
  std::optional<std::jthread> watcher;
  if (request_.snapshot == SnapshotPolicy::kLazy) {
    const auto start = Clock::now();
    begin_lazy_snapshot();
    stats_.snapshot_seconds = seconds_since(start);
    stats_.seconds += stats_.snapshot_seconds;
  }
  {
    const std::lock_guard lock(fence_mutex_);
    feed_ = std::make_unique<BlockFeed>(image_, *lanes_, snapshot_.get(), cancel_,
                                        request_.trace ? &trace_ : nullptr);
  }
  if (staged_by_snapshot_ && !settled(SaveState::kStaged)) {
    const auto watch = [this] {
      try {
        snapshot_->wait_until_copied();
        reach(SaveState::kStaged);
      } catch (const Error&) {
        // Then it is staged when every block was read, or not at all.
      }
    };
    watcher = start_thread(watch);
    if (!watcher) watch();
  }
  wait_for_predecessor();
  const auto start = Clock::now();
  stats_.durable = request_.durable;
  AtomicFile::Options options;
  options.durable = request_.durable;
  options.num_writers = static_cast<int>(
      std::clamp<uint64_t>(image_.num_blocks(), 1, static_cast<uint64_t>(request_.num_threads)));
  options.reuse = request_.reuse;
  AtomicFile file(request_.path, file_nbytes_, options);
  SaveRun run{request_.num_threads, cancel_, written_, {}, {}, request_.trace ? &trace_ : nullptr};
  run.on_staged = [this] { reach(SaveState::kStaged); };
  run.on_written = [this] { reach(SaveState::kWritten); };
  save(image_, seal_, *feed_, file, run, stats_);
  stats_.write_way = write_way_name(file.way());
  stats_.reused = file.reuses();
  stats_.reuse_reason = file.why_not_reused();
  stats_.refused = file.refused();
  watcher.reset();  // joins
  stats_.seconds += seconds_since(start);
  for (const SaveState state : {SaveState::kStaged, SaveState::kWritten}) {
    MINDCKPT_CHECK(settled(state));
  }
  stats_.staged_seconds = milestone(SaveState::kStaged).seconds;
  stats_.written_seconds = milestone(SaveState::kWritten).seconds;
  if (request_.durable) stats_.durable_seconds = seconds_since(called_);
}

void SaveJob::release() {
  const std::lock_guard lock(fence_mutex_);
  feed_.reset();
  snapshot_.reset();
  lanes_.reset();
  seal_ = {};
  image_ = {};
}

void SaveJob::wait_for_predecessor() {
  constexpr auto kCancelLatency = std::chrono::milliseconds(50);
  while (after_ && !after_->wait(Clock::now() + kCancelLatency)) {
    check_not_cancelled(cancel_);
  }
  after_.reset();
}

void SaveJob::reach(SaveState state) {
  const std::lock_guard lock(mutex_);
  Milestone& reached = milestones_[static_cast<size_t>(state)];
  if (reached.settled.load()) return;
  reached.reached = true;
  reached.seconds = seconds_since(called_);
  reached.settled.store(true);
  changed_.notify_all();
}

void SaveJob::settle_all(const std::exception_ptr& error) {
  const std::lock_guard lock(mutex_);
  for (Milestone& milestone : milestones_) {
    if (milestone.settled.load()) continue;
    milestone.error = error;
    milestone.settled.store(true);
  }
  changed_.notify_all();
}

bool SaveJob::fence(const Producer& producer, Clock::time_point deadline) {
  constexpr auto kPoll = std::chrono::microseconds(100);
  while (!settled(SaveState::kStaged) && !hold_up(producer)) {
    if (Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(kPoll);
  }
  // No stream can wait for what a thread reads.
  return !reads_host_payloads_ || wait(SaveState::kStaged, deadline);
}

// Whether all copies were in the lanes' streams, so that the producer's could be made to wait.
bool SaveJob::hold_up(const Producer& producer) {
  // The lanes live as long as it is held; what the job does at its end waits.
  const std::lock_guard lock(fence_mutex_);
  if (feed_ == nullptr) return false;
  if (!lanes_->empty() && &lanes_->all().front()->device.backend() != &producer.device->backend()) {
    throw Error(ErrorKind::kInvalidArgument, "the stream is of " + producer.device->name() +
                                                 ", the tensors are on " +
                                                 lanes_->all().front()->device.name());
  }
  if (snapshot_->copies_devices()) {
    snapshot_->hold_up({producer});
    return true;
  }
  if (!feed_->all_issued()) return false;
  for (const auto& lane : lanes_->all()) {
    DeviceEvent copied(lane->device, EventUse::kStream);
    {
      const DeviceBinding binding(lane->device);
      copied.record(lane->stream.get());
    }
    const DeviceBinding binding(*producer.device);
    stream_wait(*producer.device, producer.stream, copied);
  }
  return true;
}

bool SaveJob::is_foreign() const { return process_ != process_id(); }

bool SaveJob::wait(std::optional<Clock::time_point> deadline) {
  return wait_until(done_, deadline);
}

bool SaveJob::wait(SaveState state, std::optional<Clock::time_point> deadline) {
  return wait_until(milestone(state).settled, deadline);
}

bool SaveJob::wait_until(const std::atomic<bool>& flag, std::optional<Clock::time_point> deadline) {
  const auto is_set = [&flag] { return flag.load(std::memory_order_acquire); };
  if (is_set()) return true;
  if (is_foreign()) {
    throw Error(ErrorKind::kInternal,
                "a save that was started before a fork goes on in the parent");
  }
  MINDCKPT_CHECK(started_.load());  // one that was never started would not end
  if (runs_here()) {
    throw Error(ErrorKind::kInternal, "the thread that makes a save can't wait for it");
  }
  std::unique_lock lock(mutex_);
  if (!deadline) {
    changed_.wait(lock, is_set);
    return true;
  }
  return changed_.wait_until(lock, *deadline, is_set);
}

std::optional<double> SaveJob::reached(SaveState state) const {
  const Milestone& asked = milestone(state);
  if (!asked.settled.load(std::memory_order_acquire)) {
    throw Error(ErrorKind::kInternal, "the save is still running");
  }
  if (asked.error) std::rethrow_exception(asked.error);
  if (!asked.reached) return std::nullopt;
  return asked.seconds;
}

const SaveStats& SaveJob::result() const {
  if (!done()) throw Error(ErrorKind::kInternal, "the save is still running");
  if (error_) std::rethrow_exception(error_);
  return stats_;
}

}  // namespace mindckpt
