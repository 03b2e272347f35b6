#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/memory.h"
#include "storage/fd.h"
#include "storage/refusals.h"
#include "storage/write_policy.h"

namespace mindckpt {

struct WriteOptions {
  bool durable = false;               // the bytes will be synced: write-back starts at once
  int num_writers = 1;                // threads that write at the same time, one or more
  WriteMode mode = WriteMode::kAuto;  // kAuto: the faster way
  bool over_old_blocks = false;       // the file has most of its blocks already
};

// Puts bytes into one open file, at any place and in any order, by the way that suits the file
// system, the wish for durability and the moment. Whole pages go either way; what lies around them
// goes through the page cache, so that no page is ever written both ways at once.
class FileWriter {
 public:
  // `path` is the file's name in errors. `folder` and `name` are where the file can be opened again
  // for direct writes; a file system that does not take them is written to through the page cache.
  // `nbytes`: of the file to come.
  FileWriter(FileDescriptor fd, std::string path, int folder, const std::string& name,
             uint64_t nbytes, const WriteOptions& options);

  // Writes `pieces`, one after the other, at `offset`. Safe from any thread; ranges must not
  // overlap. Throws Error(kIo); Error(kInvalidArgument) for pieces that can't be read, if the
  // system notices.
  void write_at(uint64_t offset, std::span<const ByteView> pieces);

  // Waits until all that was written is on storage. A file system without fdatasync is asked for
  // fsync, and `refused` tells. Throws Error(kIo).
  void sync(Refusals& refused);

  // Throws Error(kIo) with what a file system keeps for the close of a file, as those of networks
  // and in user space do: that there was no space after all, or that bytes did not arrive.
  void flush();

  int fd() const noexcept { return fd_.get(); }

  // The way that most of the bytes went, so far.
  WriteWay way() const noexcept;

 private:
  using Clock = std::chrono::steady_clock;

  // A staging buffer, for as long as it is held.
  class Lease;

  void write_buffered(uint64_t offset, std::span<const ByteView> pieces);
  void write_through_cache(uint64_t offset, std::span<const ByteView> pieces);
  void write_direct(uint64_t offset, std::span<const ByteView> pieces);
  void write_pages(uint64_t offset, ByteView pages);
  void report(WriteWay way, uint64_t nbytes, Clock::time_point start, Clock::time_point end);
  bool pays_to_stage(uint64_t offset, std::span<const ByteView> pieces) const;

  const Clock::time_point made_ = Clock::now();
  FileDescriptor fd_;
  FileDescriptor direct_fd_;  // not open: there are no direct writes
  std::string path_;
  WriteOptions options_;
  WritePolicy policy_;
  uint64_t staging_nbytes_;         // of each buffer
  std::atomic<bool> takes_direct_;  // until the file system refuses one
  std::atomic<uint64_t> buffered_nbytes_{0};
  std::atomic<uint64_t> direct_nbytes_{0};
  std::mutex write_mutex_;
  std::mutex staging_mutex_;
  std::vector<Buffer> spare_staging_;  // at most one a writer
};

}  // namespace mindckpt
