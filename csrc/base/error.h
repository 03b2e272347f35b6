#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace mindckpt {

enum class ErrorKind {
  kInvalidArgument,  // the caller's mistake
  kIo,               // a system call failed: `path` and `error_number` say where and why
  kFormat,           // the file is not a sound checkpoint
  kChecksum,         // the file's CRC does not match its bytes
  kDecryption,       // wrong key or mode, or the file was tampered with
  kUnavailable,      // this machine lacks what was asked for
  kDevice,           // a device's driver refused a call
  kCancelled,        // the caller asked to stop
  kInternal,         // a bug in mindckpt
};

// The engine's one exception. Messages never hold key bytes or parameter bytes.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& what, std::string path = {}, int error_number = 0)
      : std::runtime_error(what), kind_(kind), path_(std::move(path)), errno_(error_number) {}

  ErrorKind kind() const noexcept { return kind_; }
  const std::string& path() const noexcept { return path_; }
  int error_number() const noexcept { return errno_; }

 private:
  ErrorKind kind_;
  std::string path_;
  int errno_;
};

[[noreturn]] inline void check_failed(const char* condition, const char* file, int line) {
  throw Error(ErrorKind::kInternal, std::string("mindckpt bug: ") + condition + " is false at " +
                                        file + ":" + std::to_string(line));
}

}  // namespace mindckpt

// For our own bugs; live in release builds, because a wrong checkpoint is worse than a failed one.
#define MINDCKPT_CHECK(condition)                                               \
  do {                                                                          \
    if (!(condition)) ::mindckpt::check_failed(#condition, __FILE__, __LINE__); \
  } while (false)
