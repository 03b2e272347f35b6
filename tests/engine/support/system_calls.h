#pragma once

#include <functional>

namespace mindckpt::test {

// Calls of the C library that a case of this program can make fail, or come in ahead of.
enum class SystemCall {
  kClose,
  kFallocate,
  kFchmod,
  kFdatasync,
  kFlock,
  kFstat,
  kFstatat,
  kFstatfs,
  kFsync,
  kFtruncate,
  kPwrite,
  kRenameat,
  kSyncfs,
};

// What every thread does ahead of each call of one kind, for as long as this lives. `before` gets
// the call's first argument, a descriptor, and returns the error number that the call fails with,
// or 0 to let it go on. What it calls itself goes on.
class Intercepted {
 public:
  Intercepted(SystemCall call, std::function<int(int)> before);
  ~Intercepted();
  Intercepted(const Intercepted&) = delete;
  Intercepted& operator=(const Intercepted&) = delete;

 private:
  SystemCall call_;
};

// Every call of one kind fails in one way.
class Refused : Intercepted {
 public:
  Refused(SystemCall call, int error_number)
      : Intercepted(call, [error_number](int) { return error_number; }) {}
};

}  // namespace mindckpt::test
