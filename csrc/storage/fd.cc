#include "storage/fd.h"

#include <limits.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <vector>

#include "base/error.h"

namespace mindckpt {

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

void throw_errno(const char* call, const std::string& path) {
  const int number = errno;
  throw Error(ErrorKind::kIo, std::string(call) + ": " + std::generic_category().message(number),
              path, number);
}

int sync_fd(int (*sync)(int), int fd) noexcept {
  while (sync(fd) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

uint64_t transfer_all(const Transfer& transfer, std::span<const iovec> pieces, uint64_t offset,
                      const char* call, const std::string& path) {
  std::vector<iovec> rest(pieces.begin(), pieces.end());
  uint64_t moved = 0;
  for (size_t first = 0; first < rest.size();) {
    if (rest[first].iov_len == 0) {
      ++first;
      continue;
    }
    const int count = static_cast<int>(std::min<size_t>(rest.size() - first, IOV_MAX));
    const ssize_t n = transfer(&rest[first], count, static_cast<int64_t>(offset + moved));
    if (n < 0) {
      if (errno == EINTR) continue;
      throw_errno(call, path);
    }
    if (n == 0) return moved;
    moved += static_cast<uint64_t>(n);
    for (size_t left = static_cast<size_t>(n); left > 0;) {
      const size_t taken = std::min(left, rest[first].iov_len);
      rest[first].iov_base = static_cast<char*>(rest[first].iov_base) + taken;
      rest[first].iov_len -= taken;
      left -= taken;
      if (rest[first].iov_len == 0) ++first;
    }
  }
  return moved;
}

bool is_on_local_file_system(int fd) noexcept {
  struct statfs status;
  if (::fstatfs(fd, &status) != 0) return false;
  switch (static_cast<uint64_t>(status.f_type)) {
    case EXT4_SUPER_MAGIC:
    case kXfsMagic:
    case BTRFS_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
    case OVERLAYFS_SUPER_MAGIC:
    case TMPFS_MAGIC:
      return true;
    default:
      return false;
  }
}

}  // namespace mindckpt
