#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>

#include "base/bytes.h"

namespace mindckpt {

// linux/magic.h has it from 4.20 on only.
inline constexpr uint64_t kXfsMagic = 0x58465342;

// Owns a file descriptor.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) noexcept : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor();

  int get() const noexcept { return fd_; }
  bool is_open() const noexcept { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// Throws Error(kIo) for the call that just failed, from errno.
[[noreturn]] void throw_errno(const char* call, const std::string& path);

// Calls fsync, fdatasync or syncfs, again when a signal interrupts it. Returns 0 or the error
// number.
int sync_fd(int (*sync)(int), int fd) noexcept;

// Calls transfer(iovecs, count, offset), which is preadv or pwritev, until all pieces are through:
// it may stop short, be interrupted, or take only so many pieces at once. Returns the bytes moved,
// fewer than all only when it returned 0. Throws as throw_errno.
using Transfer = std::function<ssize_t(const iovec*, int, int64_t)>;
uint64_t transfer_all(const Transfer& transfer, std::span<const iovec> pieces, uint64_t offset,
                      const char* call, const std::string& path);

// Whether the file is on a file system of this machine alone: what the kernel here knows of it is
// all there is to know, and a rename is one step.
bool is_on_local_file_system(int fd) noexcept;

}  // namespace mindckpt
