#pragma once

#include <doctest/doctest.h>
#include <pthread.h>

#include <cstddef>

namespace mindckpt::test {

// While it lives the system gives this process no thread: a stack would have to be larger than any
// memory.
class NoThreads {
 public:
  NoThreads() {
    REQUIRE(::pthread_getattr_default_np(&before_) == 0);
    set_stack(size_t{1} << 50);
  }
  ~NoThreads() {
    ::pthread_setattr_default_np(&before_);
    ::pthread_attr_destroy(&before_);
  }
  NoThreads(const NoThreads&) = delete;
  NoThreads& operator=(const NoThreads&) = delete;

 private:
  static void set_stack(size_t nbytes) {
    pthread_attr_t attributes;
    REQUIRE(::pthread_attr_init(&attributes) == 0);
    REQUIRE(::pthread_attr_setstacksize(&attributes, nbytes) == 0);
    REQUIRE(::pthread_setattr_default_np(&attributes) == 0);
    ::pthread_attr_destroy(&attributes);
  }

  pthread_attr_t before_;
};

}  // namespace mindckpt::test
