#include "storage/atomic_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>
#include <utility>

#include "storage/replaced_file.h"

namespace mindckpt {

namespace {

constexpr mode_t kPublishedMode = 0400;  // as MindSpore leaves its files
constexpr size_t kHexDigits = 16;
constexpr char kSuffix[] = ".tmp";

// Names have at most 255 bytes, and the target's own may use them all. Two long names that share
// this much share their leftovers as well, which does no harm: the locks tell which are in use.
constexpr size_t kMaxStemBytes = 180;

std::string temporary_prefix(const std::string& name) {
  return std::string(".").append(name, 0, kMaxStemBytes) + ".";
}

bool is_temporary(const std::string& candidate, const std::string& prefix) {
  if (candidate.size() != prefix.size() + kHexDigits + sizeof(kSuffix) - 1) return false;
  return candidate.starts_with(prefix) && candidate.ends_with(kSuffix) &&
         std::all_of(candidate.begin() + static_cast<ptrdiff_t>(prefix.size()),
                     candidate.end() - static_cast<ptrdiff_t>(sizeof(kSuffix) - 1),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// Removes what killed processes left behind for this name. Failing to is no error: the save goes
// on.
void remove_leftovers(int folder, const std::string& prefix) {
  // A descriptor of its own, because closedir() closes it.
  const int scan = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (scan < 0) return;
  DIR* entries = ::fdopendir(scan);
  if (entries == nullptr) {
    ::close(scan);
    return;
  }
  while (const dirent* entry = ::readdir(entries)) {
    if (!is_temporary(entry->d_name, prefix)) continue;
    const FileDescriptor leftover(
        ::openat(folder, entry->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!leftover.is_open()) continue;
    if (::flock(leftover.get(), LOCK_EX | LOCK_NB) == 0) ::unlinkat(folder, entry->d_name, 0);
  }
  ::closedir(entries);
}

std::string random_hex() {
  uint64_t number = 0;
  if (::getrandom(&number, sizeof(number), 0) != sizeof(number)) throw_errno("getrandom", "");
  char text[kHexDigits + 1];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(number));
  return text;
}

// Makes the file exactly `nbytes` long and, where the file system can, all of it allocated.
void reserve(int fd, uint64_t nbytes, const std::string& target) {
  struct stat status;
  if (::fstat(fd, &status) != 0) throw_errno("fstat", target);
  // Nothing of a longer retired file may survive.
  if (static_cast<uint64_t>(status.st_size) > nbytes &&
      ::ftruncate(fd, static_cast<off_t>(nbytes)) != 0) {
    throw_errno("ftruncate", target);
  }
  if (nbytes == 0) return;
  const auto allocate = [&] { return ::fallocate(fd, 0, 0, static_cast<off_t>(nbytes)) == 0; };
  bool allocated = allocate();
  // A save before this one may still be giving back the space of what it replaced.
  constexpr int kMostWaits = 3000;
  for (int waits = 0; !allocated && (errno == ENOSPC || errno == EDQUOT) && waits < kMostWaits;
       ++waits) {
    const int why = errno;
    const bool was_last = !ReplacedFile::releases_pending();
    if (!was_last) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    allocated = allocate();
    if (was_last) break;
    if (!allocated && errno == EINTR) errno = why;
  }
  if (!allocated && errno != EOPNOTSUPP && errno != ENOSYS && errno != EINTR) {
    throw_errno("reserve space for", target);
  }
}

}  // namespace

AtomicFile::AtomicFile(const std::string& target, uint64_t nbytes, const Options& options)
    : target_(target), durable_(options.durable) {
  WriteOptions writing = options;
  if (writing.mode == WriteMode::kAuto) writing.mode = write_mode_from_environment();
  const size_t slash = target.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : target.substr(0, slash + 1);
  name_ = slash == std::string::npos ? target : target.substr(slash + 1);
  // The folder stays open: renaming a parent meanwhile must not split temporary file and target.
  folder_ = FileDescriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder_.is_open()) throw_errno("open", folder);

  const std::string prefix = temporary_prefix(name_);
  remove_leftovers(folder_.get(), prefix);

  FileDescriptor fd;
  if (!options.reuse.empty()) {
    retired_ = RetiredFile(options.reuse, folder_.get(), name_);
    if (durable_) {
      fd = take_over_retired(prefix);
    } else {
      retired_.refuse("the save is not durable");
    }
    reuses_ = fd.is_open();
  }
  writing.over_old_blocks = reuses_;
  if (!reuses_) fd = open_temporary(prefix);
  try {
    reserve(fd.get(), nbytes, target_);
    writer_.emplace(std::move(fd), target_, folder_.get(), temporary_name_, nbytes, writing);
  } catch (...) {
    ::unlinkat(folder_.get(), temporary_name_.c_str(), 0);
    throw;
  }
}

FileDescriptor AtomicFile::open_temporary(const std::string& prefix) {
  while (true) {
    const std::string name = prefix + random_hex() + kSuffix;
    FileDescriptor fd(
        ::openat(folder_.get(), name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd.is_open()) {
      if (errno == EEXIST || errno == EINTR) continue;
      throw_errno("create a temporary file for", target_);
    }
    // Another process may take the file for a leftover before the lock is on it. The lock is waited
    // for, so that this is over then: the file is gone from the folder, and another one is made.
    // File systems without locks go without.
    while (::flock(fd.get(), LOCK_EX) != 0 && errno == EINTR) {
    }
    struct stat status;
    if (::fstat(fd.get(), &status) != 0) throw_errno("fstat", target_);
    if (status.st_nlink == 0) continue;
    temporary_name_ = name;
    return fd;
  }
}

FileDescriptor AtomicFile::take_over_retired(const std::string& prefix) {
  const std::string name = prefix + random_hex() + kSuffix;
  FileDescriptor fd = retired_.take_over(folder_.get(), name);
  if (fd.is_open()) temporary_name_ = name;
  return fd;
}

AtomicFile::~AtomicFile() {
  if (!temporary_name_.empty()) ::unlinkat(folder_.get(), temporary_name_.c_str(), 0);
}

void AtomicFile::write_at(uint64_t offset, std::span<const ByteView> pieces) {
  writer_->write_at(offset, pieces);
}

void AtomicFile::sync() {
  if (durable_) writer_->sync();
}

void AtomicFile::commit() {
  if (::fchmod(writer_->fd(), kPublishedMode) != 0) throw_errno("fchmod", target_);
  ReplacedFile replaced(folder_.get(), name_);
  if (::renameat(folder_.get(), temporary_name_.c_str(), folder_.get(), name_.c_str()) != 0) {
    throw_errno("rename to", target_);
  }
  temporary_name_.clear();
  replaced.release_in_background();
  if (durable_) sync_or_throw(::fsync, folder_.get(), "fsync of the folder of", target_);
  retired_.remove();
}

}  // namespace mindckpt
