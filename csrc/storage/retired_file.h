#pragma once

#include <sys/types.h>

#include <string>
#include <utility>

#include "storage/fd.h"
#include "storage/folder.h"

namespace mindckpt {

// A checkpoint file that its owner has no more use for, and whose blocks a new one may be written
// over: that is faster than to have new ones allocated.
//
// It is taken over only where nobody can notice: a regular file of this user, with no other name,
// in the same file system, and that no process has open or mapped, ours among them. (A write lease
// is what tells; a file system that knows no leases can't vouch for that, and nothing is taken.)
class RetiredFile {
 public:
  RetiredFile() = default;

  // Looks at the file, and does nothing to it. Throws Error(kInvalidArgument), which names `reuse`,
  // when it is the file `target_name` in `folder`, or there but no regular file.
  RetiredFile(const std::string& path, int folder, const std::string& target_name);

  // Renames the file to `name` in `folder` and returns it open for reading and writing, locked
  // (flock) and of mode 0600; its bytes are what they were. Not open: it can't be taken over, for
  // the reason that why_not() gives, and has its name and mode still.
  FileDescriptor take_over(const Folder& folder, const std::string& name);

  // Decides that it is not to be taken over.
  void refuse(std::string why_not) {
    if (why_not_.empty()) why_not_ = std::move(why_not);
  }

  // Removes the file, if it was not taken over and its path is still its. Failing to is no error.
  void remove() noexcept;

  const std::string& why_not() const noexcept { return why_not_; }

 private:
  std::string path_;
  FileDescriptor found_;  // not open: it can't be taken
  // Of what was looked at; 0: nothing was there.
  dev_t device_ = 0;
  ino_t number_ = 0;
  std::string why_not_;
};

}  // namespace mindckpt
