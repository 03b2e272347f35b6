#include "support/system_calls.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

// A program's own functions go before the C library's of the same names: these are what the engine
// calls when it is linked with this file.
namespace mindckpt::test {
namespace {

std::array<std::function<int(int)>, static_cast<size_t>(SystemCall::kSyncfs) + 1> hooks;
thread_local bool is_in_hook = false;

std::function<int(int)>& hook_of(SystemCall call) { return hooks.at(static_cast<size_t>(call)); }

// Whether the call fails, with errno set.
bool fails(SystemCall call, int fd) {
  const std::function<int(int)>& before = hook_of(call);
  if (!before || is_in_hook) return false;
  is_in_hook = true;
  const int error = before(fd);
  is_in_hook = false;
  if (error != 0) errno = error;
  return error != 0;
}

// The next definition: the C library's, or a sanitizer's in front of it.
template <typename Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

Intercepted::Intercepted(SystemCall call, std::function<int(int)> before) : call_(call) {
  hook_of(call) = std::move(before);
}

Intercepted::~Intercepted() { hook_of(call_) = nullptr; }

}  // namespace mindckpt::test

using mindckpt::test::fails;
using mindckpt::test::next;
using mindckpt::test::SystemCall;

// File offsets have 64 bits, and the names say so.
extern "C" {

int close(int fd) {
  if (fails(SystemCall::kClose, fd)) return -1;
  static const auto real = next<int(int)>("close");
  return real(fd);
}

int fallocate(int fd, int mode, off_t offset, off_t nbytes) {
  if (fails(SystemCall::kFallocate, fd)) return -1;
  static const auto real = next<decltype(fallocate)>("fallocate64");
  return real(fd, mode, offset, nbytes);
}

int fchmod(int fd, mode_t mode) noexcept {
  if (fails(SystemCall::kFchmod, fd)) return -1;
  static const auto real = next<int(int, mode_t)>("fchmod");
  return real(fd, mode);
}

int fdatasync(int fd) {
  if (fails(SystemCall::kFdatasync, fd)) return -1;
  static const auto real = next<int(int)>("fdatasync");
  return real(fd);
}

int flock(int fd, int operation) noexcept {
  if (fails(SystemCall::kFlock, fd)) return -1;
  static const auto real = next<int(int, int)>("flock");
  return real(fd, operation);
}

int fstat(int fd, struct stat* status) noexcept {
  if (fails(SystemCall::kFstat, fd)) return -1;
  static const auto real = next<int(int, struct stat*)>("fstat64");
  return real(fd, status);
}

int fstatat(int folder, const char* path, struct stat* status, int flags) noexcept {
  if (fails(SystemCall::kFstatat, folder)) return -1;
  static const auto real = next<int(int, const char*, struct stat*, int)>("fstatat64");
  return real(folder, path, status, flags);
}

int fstatfs(int fd, struct statfs* status) noexcept {
  if (fails(SystemCall::kFstatfs, fd)) return -1;
  static const auto real = next<int(int, struct statfs*)>("fstatfs64");
  return real(fd, status);
}

int fsync(int fd) {
  if (fails(SystemCall::kFsync, fd)) return -1;
  static const auto real = next<int(int)>("fsync");
  return real(fd);
}

int ftruncate(int fd, off_t nbytes) noexcept {
  if (fails(SystemCall::kFtruncate, fd)) return -1;
  static const auto real = next<int(int, off_t)>("ftruncate64");
  return real(fd, nbytes);
}

ssize_t pwrite(int fd, const void* bytes, size_t nbytes, off_t offset) {
  if (fails(SystemCall::kPwrite, fd)) return -1;
  static const auto real = next<ssize_t(int, const void*, size_t, off_t)>("pwrite64");
  return real(fd, bytes, nbytes, offset);
}

int renameat(int old_folder, const char* old_path, int new_folder, const char* new_path) noexcept {
  if (fails(SystemCall::kRenameat, old_folder)) return -1;
  static const auto real = next<int(int, const char*, int, const char*)>("renameat");
  return real(old_folder, old_path, new_folder, new_path);
}

int syncfs(int fd) noexcept {
  if (fails(SystemCall::kSyncfs, fd)) return -1;
  static const auto real = next<int(int)>("syncfs");
  return real(fd);
}

}  // extern "C"
