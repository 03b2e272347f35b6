#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "storage/fd.h"
#include "storage/sink.h"

namespace mindckpt {

// A file that appears under its name whole or not at all. Bytes go to a temporary file beside the
// target, `.<name>.<16 hex digits>.tmp`, which commit() renames over it. Whatever stood there is
// untouched until then, and with `durable` until the new file's bytes are on storage.
//
// The temporary file is locked (flock) while its writer lives. That is how a later save to the same
// name tells a killed process's leftover, which it removes, from a file still being written: the
// lock goes with the process, on any host, where a process number could mean another process.
// (With the last process that has the descriptor: a forked child that lives on keeps a leftover.)
class AtomicFile final : public Sink {
 public:
  // Reserves `nbytes` of space at once: a full disk is noticed before any work is done, and writing
  // into allocated space is faster. Throws Error(kIo).
  AtomicFile(const std::string& target, uint64_t nbytes, bool durable);
  ~AtomicFile() override;
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write_at(uint64_t offset, std::span<const ByteView> pieces) override;
  void sync() override;
  void commit() override;

 private:
  std::string target_;
  FileDescriptor folder_;
  std::string name_;            // the target's, inside the folder
  std::string temporary_name_;  // empty: nothing to remove
  FileDescriptor fd_;
  bool durable_;
  std::mutex write_mutex_;
};

}  // namespace mindckpt
