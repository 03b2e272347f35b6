#include "storage/retired_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace mindckpt {

namespace {

constexpr mode_t kPrivateMode = 0600;

bool same_file(const struct stat& one, const struct stat& other) {
  return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

std::string reason(const char* call) {
  return std::string(call) + ": " + std::generic_category().message(errno);
}

// Whether the file has what its owner, or an administrator, gave to it and not to a new one.
bool has_attributes(int fd) {
  char names[4096];
  const ssize_t nbytes = ::flistxattr(fd, names, sizeof(names));
  if (nbytes < 0) return errno != ENOTSUP;
  const std::string_view listed(names, static_cast<size_t>(nbytes));
  for (size_t at = 0; at < listed.size(); at = listed.find('\0', at) + 1) {
    if (!listed.substr(at).starts_with("security.")) return true;
  }
  return false;
}

// Whether no other descriptor and no mapping of the file exists, in any process. A write lease is
// granted just then. It is given back at once: whoever opens the file from now on is not held up.
bool is_ours_alone(int fd) {
  // Should somebody open the file meanwhile, we are told by a signal that is ignored by default,
  // and not by SIGIO, which ends the process.
  ::fcntl(fd, F_SETSIG, SIGURG);
  if (::fcntl(fd, F_SETLEASE, F_WRLCK) != 0) return false;
  return ::fcntl(fd, F_SETLEASE, F_UNLCK) == 0;
}

// Has an open file be its owner's alone, and gives it back its mode at the end unless it is kept:
// whatever is thrown meanwhile.
class PrivateMode {
 public:
  PrivateMode(int fd, mode_t before)
      : fd_(fd), before_(before & 07777), is_set_(::fchmod(fd, kPrivateMode) == 0) {}
  ~PrivateMode() {
    if (is_set_) ::fchmod(fd_, before_);
  }
  PrivateMode(const PrivateMode&) = delete;
  PrivateMode& operator=(const PrivateMode&) = delete;

  bool is_set() const noexcept { return is_set_; }
  // The file is now held by this descriptor.
  void follow(int fd) noexcept { fd_ = fd; }
  void keep() noexcept { is_set_ = false; }

 private:
  int fd_;
  mode_t before_;
  bool is_set_;
};

}  // namespace

RetiredFile::RetiredFile(const std::string& path, int folder, const std::string& target_name)
    : path_(path) {
  struct stat status;
  if (::lstat(path.c_str(), &status) != 0) {
    why_not_ = reason("lstat");
    return;
  }
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorKind::kInvalidArgument, "reuse: '" + path + "' is not a regular file");
  }
  struct stat target;
  if (::fstatat(folder, target_name.c_str(), &target, AT_SYMLINK_NOFOLLOW) == 0 &&
      same_file(status, target)) {
    throw Error(ErrorKind::kInvalidArgument, "reuse: '" + path + "' is the file that is saved to");
  }
  device_ = status.st_dev;
  number_ = status.st_ino;
  // One that can't be opened can be removed all the same.
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat opened;
  if (!fd.is_open() || ::fstat(fd.get(), &opened) != 0) {
    why_not_ = reason("open");
  } else if (!same_file(opened, status)) {
    why_not_ = "it was replaced meanwhile";
  } else {
    found_ = std::move(fd);
  }
}

FileDescriptor RetiredFile::take_over(const Folder& folder, const std::string& name) {
  const auto refused = [this](std::string why_not) {
    refuse(std::move(why_not));
    return FileDescriptor();
  };
  if (!found_.is_open()) return {};
  struct stat status;
  struct stat in_folder;
  if (::fstat(found_.get(), &status) != 0 || ::fstat(folder.fd(), &in_folder) != 0) {
    return refused(reason("fstat"));
  }
  if (status.st_dev != in_folder.st_dev) return refused("it is on another file system");
  if (status.st_nlink != 1) return refused("it has another name");
  if (status.st_uid != ::geteuid()) return refused("it belongs to another user");
  // Elsewhere a lease vouches for the processes of this machine only.
  if (!is_on_local_file_system(found_.get())) {
    return refused("its file system is not known to be this machine's alone");
  }
  if (has_attributes(found_.get())) return refused("it has attributes that a new file has not");
  if (!is_ours_alone(found_.get())) return refused("it is in use");

  const std::string old_path = path_.substr(0, path_.rfind('/') + 1);
  std::optional<Folder> old_folder;
  try {
    old_folder.emplace(old_path.empty() ? "." : old_path);
  } catch (const Error& error) {
    return refused(error.what());
  }

  // Published files are read-only, so it takes a change of mode to open one for writing.
  FileDescriptor fd;
  PrivateMode mode(found_.get(), status.st_mode);
  if (!mode.is_set()) return refused(reason("fchmod"));
  fd = FileDescriptor(::open(path_.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat reopened;
  if (!fd.is_open() || ::fstat(fd.get(), &reopened) != 0 || !same_file(reopened, status)) {
    return refused("it was replaced meanwhile");
  }
  // As every temporary file is locked. A lock that somebody else holds is a use of the file.
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return refused(errno == EWOULDBLOCK ? "it is in use" : reason("flock"));
  }
  if (::renameat(AT_FDCWD, path_.c_str(), folder.fd(), name.c_str()) != 0) {
    return refused(reason("rename"));
  }
  // From here on nobody comes by it by its old name. Who came by it just before, or gave it another
  // name, or that name to another file, has it back.
  struct stat renamed;
  const bool is_it = ::fstatat(folder.fd(), name.c_str(), &renamed, AT_SYMLINK_NOFOLLOW) == 0 &&
                     same_file(renamed, status) && renamed.st_nlink == 1;
  mode.follow(fd.get());
  {
    const FileDescriptor closed = std::move(found_);
  }  // or the file were in use by us
  // The rename is on storage before the first byte is written over: no crash leaves a torn file
  // under the old name.
  Refusals done_without;
  const bool is_alone = is_it && is_ours_alone(fd.get());
  if (is_alone && folder.sync(fd.get(), done_without) == 0 &&
      old_folder->sync(fd.get(), done_without) == 0) {
    mode.keep();
    return fd;
  }
  found_ = std::move(fd);
  // It goes back unless its name has been given away: then its owner, who gave it up, has no other
  // name for it. What is not it is never removed.
  if (::renameat2(folder.fd(), name.c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE) != 0 &&
      is_it) {
    ::unlinkat(folder.fd(), name.c_str(), 0);
  }
  return refused(is_alone ? "its folder could not be synced" : "it is in use");
}

void RetiredFile::remove() noexcept {
  struct stat status;
  if (number_ != 0 && ::lstat(path_.c_str(), &status) == 0 && status.st_dev == device_ &&
      status.st_ino == number_) {
    ::unlink(path_.c_str());
  }
}

}  // namespace mindckpt
