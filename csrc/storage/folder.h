#pragma once

#include <string>

#include "storage/fd.h"
#include "storage/refusals.h"

namespace mindckpt {

// A folder in which files are made, renamed and removed. It stays the same one when it, or a parent
// of it, is renamed. It need not be readable: then nobody can list it, and its names are synced
// with all of its file system.
class Folder {
 public:
  explicit Folder(const std::string& path);  // throws Error(kIo)

  // For the calls with `at` at their end. Of a folder that can't be read it is no more than a
  // place.
  int fd() const noexcept { return fd_.get(); }
  bool is_readable() const noexcept { return is_readable_; }
  // As it was opened, for messages.
  const std::string& path() const noexcept { return path_; }

  // Brings the names in it to storage. `file` is a descriptor of any file in it. Returns 0, or the
  // error number: then they may not be there.
  //
  // Where the folder can't be synced by itself, all of its file system is, if that is one of this
  // machine, and `refused` tells. A network's may answer that with nothing done.
  int sync(int file, Refusals& refused) const;

 private:
  std::string path_;
  FileDescriptor fd_;
  bool is_readable_;
};

}  // namespace mindckpt
