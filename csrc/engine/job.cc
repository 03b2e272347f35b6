#include "engine/job.h"

#include <unistd.h>

#include <utility>

#include "base/error.h"
#include "engine/snapshot.h"
#include "storage/atomic_file.h"

namespace mindckpt {

SaveJob::SaveJob(SaveRequest request) : request_(std::move(request)), process_(::getpid()) {
  const auto start = Clock::now();
  if (request_.num_threads == 0) request_.num_threads = default_num_threads();
  if (request_.block_bytes == 0) {
    request_.block_bytes = default_block_bytes(request_.cipher != nullptr, request_.num_threads);
  }
  ImageOptions options{request_.block_bytes, request_.crc, std::nullopt};
  if (request_.cipher) {
    seal_ = {std::move(request_.cipher), {}};
    seal_.base = seal_.cipher->random_base();
    options.seal_iv_base = seal_.base;
  }
  image_ = FileImage::plan(std::move(request_.tensors), options);
  file_nbytes_ = seal_.file_nbytes(image_);
  if (request_.snapshot) {
    const auto snapshot_start = Clock::now();
    snapshot_ = snapshot_payloads(image_, request_.num_threads);
    stats_.snapshot_seconds = seconds_since(snapshot_start);
  }
  stats_.seconds = seconds_since(start);
}

SaveJob::~SaveJob() {
  cancel();
  if (thread_.joinable()) thread_.join();
}

void SaveJob::start(std::shared_ptr<SaveJob> after) {
  MINDCKPT_CHECK(!thread_.joinable());
  after_ = std::move(after);
  thread_ = std::thread([this] { run(); });
}

void SaveJob::run() noexcept {
  try {
    wait_for_predecessor();
    const auto start = Clock::now();
    stats_.durable = request_.durable;
    AtomicFile file(request_.path, file_nbytes_, request_.durable);
    save(image_, seal_, file, request_.num_threads, cancel_, written_, stats_);
    stats_.seconds += seconds_since(start);
  } catch (...) {
    error_ = std::current_exception();
  }
  // A finished job may be kept for long; its key, its data and its predecessors need not be.
  after_.reset();
  seal_ = {};
  image_ = {};
  snapshot_ = {};
  const std::lock_guard lock(mutex_);
  done_.store(true, std::memory_order_release);
  finished_.notify_all();
}

void SaveJob::wait_for_predecessor() {
  constexpr auto kCancelLatency = std::chrono::milliseconds(50);
  while (after_ && !after_->wait(Clock::now() + kCancelLatency)) {
    if (cancel_.load(std::memory_order_relaxed)) throw Error(ErrorKind::kCancelled, "cancelled");
  }
  after_.reset();
}

bool SaveJob::is_foreign() const { return process_ != ::getpid(); }

bool SaveJob::wait(std::optional<Clock::time_point> deadline) {
  if (done()) return true;
  if (is_foreign()) {
    throw Error(ErrorKind::kInternal,
                "a save that was started before a fork goes on in the parent");
  }
  MINDCKPT_CHECK(thread_.joinable());  // one that was never started would not end
  std::unique_lock lock(mutex_);
  if (!deadline) {
    finished_.wait(lock, [this] { return done(); });
    return true;
  }
  return finished_.wait_until(lock, *deadline, [this] { return done(); });
}

const SaveStats& SaveJob::result() const {
  if (!done()) throw Error(ErrorKind::kInternal, "the save is still running");
  if (error_) std::rethrow_exception(error_);
  return stats_;
}

}  // namespace mindckpt
