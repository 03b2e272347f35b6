#pragma once

#include <dlfcn.h>
#include <doctest/doctest.h>

#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "stand_in.h"

namespace stand_in::test {

// A shared library of this project's build folder, loaded for good. Who asks dlopen for its bare
// name from now on gets it, too.
class Library {
 public:
  explicit Library(const std::string& name)
      : handle_(::dlopen(path(name).c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) throw std::runtime_error(::dlerror());
  }

  static std::string path(const std::string& name) { return STAND_IN_FOLDER "/" + name; }

  template <typename Function>
  Function* get(const char* name) const {
    void* const symbol = ::dlsym(handle_, name);
    if (symbol == nullptr) throw std::runtime_error(::dlerror());
    return reinterpret_cast<Function*>(symbol);
  }

 private:
  void* handle_;
};

// One of the stand-in libraries, "libcuda.so.1", "libascendcl.so" or "libmindckpt_sim.so", with the
// functions of stand_in.h: `control.fail("cuInit", 1)`.
struct StandIn {
  explicit StandIn(const std::string& name) : library(name) {}

  Library library;
#define MINDCKPT_FUNCTION(name)     \
  decltype(&stand_in_##name) name = \
      library.get<std::remove_pointer_t<decltype(&stand_in_##name)>>("stand_in_" #name)
  MINDCKPT_FUNCTION(reset);
  MINDCKPT_FUNCTION(fail);
  MINDCKPT_FUNCTION(functions);
  MINDCKPT_FUNCTION(calls);
  MINDCKPT_FUNCTION(why);
  MINDCKPT_FUNCTION(live);
  MINDCKPT_FUNCTION(set_device_count);
  MINDCKPT_FUNCTION(set_memory);
  MINDCKPT_FUNCTION(set_driver_version);
  MINDCKPT_FUNCTION(set_speed);
  MINDCKPT_FUNCTION(set_random_delay);
  MINDCKPT_FUNCTION(copied);
  MINDCKPT_FUNCTION(busy_seconds);
  MINDCKPT_FUNCTION(allocate);
  MINDCKPT_FUNCTION(release);
  MINDCKPT_FUNCTION(write);
  MINDCKPT_FUNCTION(read);
  MINDCKPT_FUNCTION(stream_create);
  MINDCKPT_FUNCTION(stream_destroy);
  MINDCKPT_FUNCTION(stream_sync);
  MINDCKPT_FUNCTION(stream_write);
  MINDCKPT_FUNCTION(stream_fill);
  MINDCKPT_FUNCTION(stream_delay);
  MINDCKPT_FUNCTION(stream_pause);
  MINDCKPT_FUNCTION(stream_resume);
  MINDCKPT_FUNCTION(stream_begin_capture);
#undef MINDCKPT_FUNCTION

  std::vector<std::string> function_names() const {
    std::vector<std::string> names(1);
    for (const char* at = functions(); *at != '\0'; ++at) {
      if (*at == '\n') {
        names.emplace_back();
      } else {
        names.back().push_back(*at);
      }
    }
    return names;
  }

  void check_nothing_lives() const {
    for (const char* kind : {"stream", "event", "device_memory", "pinned_memory", "context"}) {
      CAPTURE(kind);
      CHECK(live(kind) == 0);
    }
  }
};

}  // namespace stand_in::test
