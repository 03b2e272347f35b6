#include "storage/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>

#include "base/error.h"
#include "storage/leftovers.h"
#include "storage/replaced_file.h"

namespace mindckpt {

namespace {

constexpr mode_t kPublishedMode = 0400;  // as MindSpore leaves its files

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

// Allocates `nbytes` for a file. Returns 0 or the error number.
int allocate(int fd, uint64_t nbytes) {
  const auto try_once = [&] {
    return ::fallocate(fd, 0, 0, static_cast<off_t>(nbytes)) == 0 ? 0 : errno;
  };
  const auto is_full = [](int error) { return error == ENOSPC || error == EDQUOT; };
  int error = try_once();
  // A save before this one may still be giving back the space of what it replaced.
  constexpr int kMostWaits = 3000;
  for (int waits = 0; is_full(error) && waits < kMostWaits; ++waits) {
    const bool was_last = !ReplacedFile::releases_pending();
    if (!was_last) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    const int again = try_once();
    if (again != EINTR) error = again;
    if (was_last) break;
  }
  return error;
}

}  // namespace

AtomicFile::AtomicFile(const std::string& target, uint64_t nbytes, const Options& options)
    : target_(target),
      folder_(folder_of(target)),
      name_(target.substr(target.rfind('/') + 1)),
      durable_(options.durable) {
  WriteOptions writing = options;
  if (writing.mode == WriteMode::kAuto) writing.mode = write_mode_from_environment();
  remove_leftovers_of_saves(folder_, name_);

  FileDescriptor fd;
  if (!options.reuse.empty()) {
    retired_ = RetiredFile(options.reuse, folder_.fd(), name_);
    if (durable_) {
      fd = take_over_retired();
    } else {
      retired_.refuse("the save is not durable");
    }
    reuses_ = fd.is_open();
  }
  writing.over_old_blocks = reuses_;
  if (!reuses_) fd = open_temporary();
  reserve(fd.get(), nbytes);
  writer_.emplace(std::move(fd), target_, folder_.fd(), temporary_.name(), nbytes, writing);
}

AtomicFile::~AtomicFile() = default;

void AtomicFile::Temporary::remove() noexcept {
  if (!name_.empty() && process_ == process_id()) ::unlinkat(folder_.fd(), name_.c_str(), 0);
  name_.clear();
}

FileDescriptor AtomicFile::open_temporary() {
  constexpr int kMostTries = 100;
  bool has_locks = true;
  for (int tries = 0; tries < kMostTries; ++tries) {
    temporary_.own(temporary_name(folder_, name_, has_locks));
    FileDescriptor fd(::openat(folder_.fd(), temporary_.name().c_str(),
                               O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd.is_open()) {
      const int error = errno;
      // Interrupted, it may have been made all the same.
      if (error == EINTR) continue;
      temporary_.disown();
      if (error == EEXIST) continue;
      errno = error;
      throw_errno("create a temporary file for", target_);
    }
    if (!has_locks) return fd;
    has_locks = lock(fd.get());
    if (has_locks && !was_swept(fd.get())) return fd;
    temporary_.remove();
  }
  errno = EAGAIN;
  throw_errno("create a temporary file for, as others remove it each time", target_);
}

// Another process may take the file for a leftover before the lock is on it. The lock is waited
// for, so that this is over then. False where it is refused: the file's name must not promise one.
bool AtomicFile::lock(int fd) {
  while (::flock(fd, LOCK_EX) != 0) {
    if (errno == EINTR) continue;
    refused_.add("flock", errno);
    return false;
  }
  return true;
}

// Whether the file is gone from the folder. Some file systems count no names, so that it takes both
// answers; one that can't answer is believed to have the file, and the rename will tell.
bool AtomicFile::was_swept(int fd) const {
  struct stat status;
  if (::fstat(fd, &status) == 0 && status.st_nlink > 0) return false;
  return ::fstatat(folder_.fd(), temporary_.name().c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0 &&
         (errno == ENOENT || errno == ESTALE);
}

FileDescriptor AtomicFile::take_over_retired() {
  temporary_.own(temporary_name(folder_, name_));
  FileDescriptor fd = retired_.take_over(folder_, temporary_.name());
  if (!fd.is_open()) temporary_.disown();
  return fd;
}

// Makes sure that the file is no longer than `nbytes` and, where the file system can, that all of
// it is allocated.
void AtomicFile::reserve(int fd, uint64_t nbytes) {
  if (reuses_) {  // nothing of a longer retired file may survive
    struct stat status;
    if (::fstat(fd, &status) != 0) throw_errno("fstat", target_);
    while (static_cast<uint64_t>(status.st_size) > nbytes &&
           ::ftruncate(fd, static_cast<off_t>(nbytes)) != 0) {
      if (errno != EINTR) throw_errno("ftruncate", target_);
    }
  }
  if (nbytes == 0) return;
  const int error = allocate(fd, nbytes);
  if (error == 0 || error == EINTR) return;
  if (error != ENOSPC && error != EDQUOT && error != EFBIG) return refused_.add("fallocate", error);
  errno = error;
  throw_errno("reserve space for", target_);
}

void AtomicFile::write_at(uint64_t offset, std::span<const ByteView> pieces) {
  writer_->write_at(offset, pieces);
}

void AtomicFile::sync() {
  if (durable_) writer_->sync(refused_);
  writer_->flush();
}

void AtomicFile::commit() {
  while (::fchmod(writer_->fd(), kPublishedMode) != 0) {
    if (errno == EINTR) continue;
    refused_.add("fchmod", errno);
    break;
  }
  ReplacedFile replaced(folder_.fd(), name_);
  while (::renameat(folder_.fd(), temporary_.name().c_str(), folder_.fd(), name_.c_str()) != 0) {
    const int error = errno;
    if (is_published()) break;
    if (error == EINTR) continue;
    errno = error;
    throw_errno("rename to", target_);
  }
  temporary_.disown();
  replaced.release_in_background();
  if (durable_) {
    errno = folder_.sync(writer_->fd(), refused_);
    if (errno != 0) {
      throw_errno(
          "the file is published, but its folder could not be synced, and a power cut may "
          "lose the name",
          target_);
    }
  }
  retired_.remove();
}

// Whether the target is this file. A rename can be told as failed and be done: by a network's
// server whose answer was lost, and that was asked again.
bool AtomicFile::is_published() const {
  struct stat ours;
  struct stat target;
  struct stat old_name;
  // Some file systems in user space number all files alike: so the old name must be gone, too.
  return ::fstat(writer_->fd(), &ours) == 0 &&
         ::fstatat(folder_.fd(), name_.c_str(), &target, AT_SYMLINK_NOFOLLOW) == 0 &&
         ours.st_dev == target.st_dev && ours.st_ino == target.st_ino &&
         ours.st_size == target.st_size &&
         ::fstatat(folder_.fd(), temporary_.name().c_str(), &old_name, AT_SYMLINK_NOFOLLOW) != 0 &&
         errno == ENOENT;
}

}  // namespace mindckpt
