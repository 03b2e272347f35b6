#include "storage/atomic_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <vector>

#include "base/error.h"

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

// Flushes with `sync`, restarted when a signal interrupts it.
template <typename Sync>
void sync_or_throw(Sync sync, int fd, const char* call, const std::string& path) {
  while (sync(fd) != 0) {
    if (errno != EINTR) throw_errno(call, path);
  }
}

}  // namespace

AtomicFile::AtomicFile(const std::string& target, uint64_t nbytes, bool durable)
    : target_(target), durable_(durable) {
  const size_t slash = target.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : target.substr(0, slash + 1);
  name_ = slash == std::string::npos ? target : target.substr(slash + 1);
  // The folder stays open: renaming a parent meanwhile must not split temporary file and target.
  folder_ = FileDescriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder_.is_open()) throw_errno("open", folder);

  const std::string prefix = temporary_prefix(name_);
  remove_leftovers(folder_.get(), prefix);

  while (!fd_.is_open()) {
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
    fd_ = std::move(fd);
  }
  try {
    if (nbytes > 0 && ::fallocate(fd_.get(), 0, 0, static_cast<off_t>(nbytes)) != 0 &&
        errno != EOPNOTSUPP && errno != ENOSYS && errno != EINTR) {
      throw_errno("reserve space for", target_);
    }
  } catch (...) {
    ::unlinkat(folder_.get(), temporary_name_.c_str(), 0);
    throw;
  }
}

AtomicFile::~AtomicFile() {
  if (!temporary_name_.empty()) ::unlinkat(folder_.get(), temporary_name_.c_str(), 0);
}

void AtomicFile::write_at(uint64_t offset, std::span<const ByteView> pieces) {
  std::vector<iovec> iovecs;
  iovecs.reserve(pieces.size());
  uint64_t nbytes = 0;
  for (const ByteView piece : pieces) {
    iovecs.push_back({const_cast<std::byte*>(piece.data()), piece.size()});
    nbytes += piece.size();
  }
  const auto write = [this](const iovec* iov, int count, int64_t at) {
    return ::pwritev(fd_.get(), iov, count, at);
  };
  uint64_t written = 0;
  {
    // A buffered write holds the inode's lock from start to end. Waiting here instead of in the
    // kernel, where waiters spin, is worth a factor of three with two threads on ext4.
    const std::lock_guard lock(write_mutex_);
    written = transfer_all(write, iovecs, offset, "write", target_);
  }
  if (written != nbytes) throw Error(ErrorKind::kIo, "write: no progress", target_, EIO);
  // Starts the write-back now, so that the sync at the end finds little left to do.
  if (durable_) {
    ::sync_file_range(fd_.get(), static_cast<off64_t>(offset), static_cast<off64_t>(nbytes),
                      SYNC_FILE_RANGE_WRITE);
  }
}

void AtomicFile::sync() {
  if (durable_) sync_or_throw(::fdatasync, fd_.get(), "fdatasync", target_);
}

void AtomicFile::commit() {
  if (::fchmod(fd_.get(), kPublishedMode) != 0) throw_errno("fchmod", target_);
  if (::renameat(folder_.get(), temporary_name_.c_str(), folder_.get(), name_.c_str()) != 0) {
    throw_errno("rename to", target_);
  }
  temporary_name_.clear();
  if (durable_) sync_or_throw(::fsync, folder_.get(), "fsync of the folder of", target_);
}

}  // namespace mindckpt
