#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/memory.h"
#include "base/workers.h"
#include "engine/save.h"
#include "engine/stats.h"
#include "image/file_image.h"

namespace mindckpt {

struct SaveRequest {
  std::vector<TensorRef> tensors;
  std::string path;  // resolved: no symlink at its end
  bool crc = false;
  bool durable = true;
  std::shared_ptr<const Cipher> cipher;  // nullptr: plain
  int num_threads = 0;                   // 0: picks
  uint64_t block_bytes = 0;              // 0: picks
  bool snapshot = false;                 // copy all payloads before the constructor returns
};

// One save: planned (and snapshot) by the constructor, then running on a thread of its own. Without
// a snapshot the tensors must stay alive and unchanged until it is done.
class SaveJob {
 public:
  explicit SaveJob(SaveRequest request);
  ~SaveJob();  // cancels it when it is not done, and joins; not to be called when it is foreign
  SaveJob(const SaveJob&) = delete;
  SaveJob& operator=(const SaveJob&) = delete;

  // Once. `after`, when there is one, is waited for first, on the new thread.
  void start(std::shared_ptr<SaveJob> after);

  // True once it is done, well or not; waits for that, at most until `deadline`.
  bool wait(std::optional<Clock::time_point> deadline);
  // Whether this is the copy that a fork made of the parent's: its thread does not exist here.
  bool is_foreign() const;
  bool done() const { return done_.load(std::memory_order_acquire); }

  // Stops at the next block, or before the file takes its name; nothing is published then.
  void cancel() noexcept { cancel_.store(true, std::memory_order_relaxed); }

  uint64_t written_nbytes() const { return written_.load(std::memory_order_relaxed); }
  uint64_t file_nbytes() const { return file_nbytes_; }

  // Of a job that is done: the stats, or what went wrong is thrown, each time it is asked for.
  const SaveStats& result() const;

 private:
  void run() noexcept;
  void wait_for_predecessor();

  SaveRequest request_;
  SealPlan seal_;
  FileImage image_;
  uint64_t file_nbytes_ = 0;
  Buffer snapshot_;
  std::shared_ptr<SaveJob> after_;
  SaveStats stats_;
  CancelFlag cancel_{false};
  std::atomic<uint64_t> written_{0};

  std::mutex mutex_;
  std::condition_variable finished_;
  std::atomic<bool> done_{false};
  std::exception_ptr error_;
  pid_t process_;
  std::thread thread_;
};

}  // namespace mindckpt
