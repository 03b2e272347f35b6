#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "storage/fd.h"
#include "storage/file_writer.h"
#include "storage/retired_file.h"
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
  struct Options : WriteOptions {  // a mode of kAuto is what the environment says
    // A file that is given up: its blocks are written over, where RetiredFile allows it and the
    // file is to be durable (else a crash could bring back its bytes under the new name), and it is
    // gone from now on. Where not, it is removed once the new file is published. Empty: none.
    std::string reuse;
  };

  // Reserves `nbytes` of space at once: a full disk is noticed before any work is done, and writing
  // into allocated space is faster. Throws Error(kIo), and Error(kInvalidArgument) as RetiredFile.
  AtomicFile(const std::string& target, uint64_t nbytes, const Options& options);
  ~AtomicFile() override;
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write_at(uint64_t offset, std::span<const ByteView> pieces) override;
  void sync() override;
  void commit() override;

  // The way that most of the bytes went, so far.
  WriteWay way() const noexcept { return writer_->way(); }
  // Whether the blocks of Options::reuse are written over; and why not, if there was one.
  bool reuses() const noexcept { return reuses_; }
  const std::string& why_not_reused() const noexcept { return retired_.why_not(); }

 private:
  FileDescriptor open_temporary(const std::string& prefix);
  FileDescriptor take_over_retired(const std::string& prefix);

  std::string target_;
  FileDescriptor folder_;
  std::string name_;            // the target's, inside the folder
  std::string temporary_name_;  // empty: nothing to remove
  RetiredFile retired_;
  bool reuses_ = false;
  bool durable_;
  std::optional<FileWriter> writer_;
};

}  // namespace mindckpt
