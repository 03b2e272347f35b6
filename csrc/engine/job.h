#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/workers.h"
#include "engine/block_feed.h"
#include "engine/copy_lanes.h"
#include "engine/save.h"
#include "engine/snapshot.h"
#include "engine/stats.h"
#include "image/file_image.h"

namespace mindckpt {

// How a save that goes on in the background keeps the values as of the call.
enum class SnapshotPolicy {
  kNone,    // it does not: whoever calls waits for the end
  kHost,    // copies in host memory; pinned, for payloads in devices' memory
  kDevice,  // copies in the same device's memory, staged out afterwards
  kLazy,    // none: the caller writes nothing until fence()
  kAuto,    // kDevice or kHost, by free memory; else the call lasts until everything is staged
};

// How far a save has come. A later one is not reached before an earlier one.
enum class SaveState {
  kStaged,   // nothing is read from the payloads any more: they may change
  kWritten,  // every byte is with the file system, under another name
  kDurable,  // on storage, and under its name; never reached by a save that is not to be durable
};

struct SaveRequest {
  std::vector<TensorRef> tensors;
  std::string path;  // resolved: no symlink at its end
  bool crc = false;
  bool durable = true;
  std::string reuse;  // a retired file that may be written over, see AtomicFile; empty: none
  std::shared_ptr<const Cipher> cipher;  // nullptr: plain
  int num_threads = 0;                   // 0: picks
  uint64_t block_bytes = 0;              // 0: picks
  SnapshotPolicy snapshot = SnapshotPolicy::kNone;
  bool trace = false;
  // For payloads in devices' memory: the streams that made them, each once.
  std::vector<Producer> producers;
  bool has_unknown_producer = false;  // some payload's stream is not among them
  // Devices with payloads that anything on them may be writing: all of it is waited for.
  std::vector<const Device*> synced_devices;
  // What is pinned, which payloads in devices' memory need, and what snapshots are kept in.
  StagingPools* staging = nullptr;
};

// One save: planned (and its snapshot begun) by the constructor, then running on a thread of its
// own, or its caller's where none can be had. Payloads that the snapshot does not cover must stay
// alive and unchanged until it is staged.
class SaveJob {
 public:
  explicit SaveJob(SaveRequest request);
  ~SaveJob();  // cancels it when it is not done, and joins; not to be called when it is foreign
  SaveJob(const SaveJob&) = delete;
  SaveJob& operator=(const SaveJob&) = delete;

  // Once. `after`, when there is one, is waited for first, on the new thread. False where the
  // system gives no thread: then whoever called this calls run_here(), or cancel(). Throws
  // Error(kInternal) on the thread that runs `after`, which can't end then.
  bool start(std::shared_ptr<SaveJob> after);
  // Runs the save to its end, however that is, while `look` looks up from it, see LookUp. Nothing
  // where it was cancelled before.
  void run_here(const std::function<void()>& look);

  // True once it is done, well or not; waits for that, at most until `deadline`. Throws
  // Error(kInternal) on the thread that runs it, for which there is nothing to wait for.
  bool wait(std::optional<Clock::time_point> deadline);
  // True once a state is reached, or can't be any more.
  bool wait(SaveState state, std::optional<Clock::time_point> deadline);
  // Whether this is the copy that a fork made of the parent's: its thread does not exist here.
  bool is_foreign() const;
  bool done() const { return done_.load(std::memory_order_acquire); }
  bool settled(SaveState state) const { return milestone(state).settled.load(); }

  // Of a state that is settled: the seconds from the call to it, or what went wrong is thrown.
  // Nothing when it was not to be reached.
  std::optional<double> reached(SaveState state) const;

  // The caller's stream does nothing more until the payloads may change; the host waits only until
  // the last copy is in its stream, which takes long only where there was no memory for a snapshot.
  // Throws Error(kDevice); a save that has failed holds nothing up.
  // False when it is not that far by the deadline.
  bool fence(const Producer& producer, Clock::time_point deadline);

  // Whether the caller has to wait until it is staged, because there was no memory for a snapshot.
  bool is_synchronous() const noexcept { return is_synchronous_; }

  // Stops at the next block, or before the file takes its name; nothing is published then. A job
  // that was left to run_here() and has not begun is done at once.
  void cancel() noexcept;

  uint64_t written_nbytes() const { return written_.load(std::memory_order_relaxed); }
  uint64_t file_nbytes() const { return file_nbytes_; }

  // Of a job that is done: the stats, or what went wrong is thrown, each time it is asked for.
  const SaveStats& result() const;
  std::vector<Trace::Entry> trace() const { return trace_.entries(); }

 private:
  struct Milestone {
    std::atomic<bool> settled{false};
    bool reached = false;
    double seconds = 0;
    std::exception_ptr error;
  };

  void plan();
  void begin_snapshot();
  void pick_snapshot(const PayloadSizes& sizes);
  bool fits_on_host(const PayloadSizes& sizes) const;
  void begin_lazy_snapshot();
  void run() noexcept;
  void run_save();
  void end() noexcept;
  bool runs_here() const { return runner_.load() == std::this_thread::get_id(); }
  void wait_for_predecessor();
  bool wait_until(const std::atomic<bool>& flag, std::optional<Clock::time_point> deadline);
  const Milestone& milestone(SaveState state) const {
    return milestones_[static_cast<size_t>(state)];
  }
  void reach(SaveState state);
  bool hold_up(const Producer& producer);
  void settle_all(const std::exception_ptr& error);
  void release();

  const Clock::time_point called_;
  SaveRequest request_;
  SealPlan seal_;
  FileImage image_;
  uint64_t file_nbytes_ = 0;
  bool is_synchronous_ = false;
  bool reads_host_payloads_ = false;  // after the call, the caller's own
  bool staged_by_snapshot_ = false;   // and not only when every block was read
  std::shared_ptr<SaveJob> after_;
  SaveStats stats_;
  Trace trace_{called_};
  CancelFlag cancel_{false};
  std::atomic<uint64_t> written_{0};

  std::mutex fence_mutex_;  // around what fence() uses, which goes at the end
  std::unique_ptr<CopyLanes> lanes_;
  std::unique_ptr<Snapshot> snapshot_;
  std::unique_ptr<BlockFeed> feed_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::array<Milestone, 3> milestones_;
  std::atomic<bool> done_{false};
  std::exception_ptr error_;
  pid_t process_;
  std::atomic<bool> started_{false};
  std::atomic<bool> is_left_to_caller_{false};  // until it is begun
  std::atomic<std::thread::id> runner_{};
  std::optional<std::jthread> thread_;
};

}  // namespace mindckpt
