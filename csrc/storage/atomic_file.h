#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "base/process.h"
#include "storage/fd.h"
#include "storage/file_writer.h"
#include "storage/folder.h"
#include "storage/refusals.h"
#include "storage/retired_file.h"
#include "storage/sink.h"

namespace mindckpt {

// A file that appears under its name whole or not at all. Bytes go to a temporary file beside the
// target (see leftovers.h), which commit() renames over it. Whatever stood there is untouched until
// then, and with `durable` until the new file's bytes are on storage.
//
// What a file system refuses and the file can do without (its mode, space allocated ahead, a lock)
// fails nothing: refused() tells. What `durable` can't do without fails, and the error says whether
// the file is published.
class AtomicFile final : public Sink {
 public:
  struct Options : WriteOptions {  // a mode of kAuto is what the environment says
    // A file that is given up: its blocks are written over, where RetiredFile allows it and the
    // file is to be durable (else a crash could bring back its bytes under the new name), and it is
    // gone from now on. Where not, it is removed once the new file is published. Empty: none.
    std::string reuse;
  };

  // Removes the leftovers of killed processes in the target's folder, and reserves `nbytes` of
  // space at once: a full disk is noticed before any work is done, and writing into allocated space
  // is faster. Throws Error(kIo), and Error(kInvalidArgument) as RetiredFile.
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
  // What the file system refused and this did without, so far; empty: nothing.
  const std::string& refused() const noexcept { return refused_.text(); }

 private:
  // A name in a folder, which is removed with this.
  class Temporary {
   public:
    explicit Temporary(const Folder& folder) : folder_(folder), process_(process_id()) {}
    ~Temporary() { remove(); }
    Temporary(const Temporary&) = delete;
    Temporary& operator=(const Temporary&) = delete;

    // Removes the one before. To be called before there is a file, so that nothing comes between.
    void own(std::string name) noexcept {
      remove();
      name_ = std::move(name);
    }
    void disown() noexcept { name_.clear(); }
    // Nothing in a forked child: the file is the parent's.
    void remove() noexcept;
    const std::string& name() const noexcept { return name_; }

   private:
    const Folder& folder_;
    const pid_t process_;
    std::string name_;  // empty: none
  };

  FileDescriptor open_temporary();
  FileDescriptor take_over_retired();
  bool lock(int fd);
  bool was_swept(int fd) const;
  void reserve(int fd, uint64_t nbytes);
  bool is_published() const;

  std::string target_;
  Folder folder_;
  std::string name_;  // the target's, inside the folder
  Temporary temporary_{folder_};
  Refusals refused_;
  RetiredFile retired_;
  bool reuses_ = false;
  bool durable_;
  std::optional<FileWriter> writer_;
};

}  // namespace mindckpt
