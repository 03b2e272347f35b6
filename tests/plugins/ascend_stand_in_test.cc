#include <doctest/doctest.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "stand_in_testing.h"

namespace stand_in::test {
namespace {

struct Ascend {
  StandIn control{"libascendcl.so"};

  template <typename... Arguments>
  int call(const char* name, Arguments... arguments) const {
    return control.library.get<int(Arguments...)>(name)(arguments...);
  }
  int copy(void* to, size_t to_max, const void* from, size_t nbytes, int kind, void* stream) const {
    return call("aclrtMemcpyAsync", to, to_max, from, nbytes, kind, stream);
  }
  const char* recent_error() const {
    return control.library.get<const char*()>("aclGetRecentErrMsg")();
  }
};

struct PointerAttributes {
  uint32_t id;
  int type;
  uint32_t page_size;
  uint32_t reserved[4];
};

TEST_CASE_FIXTURE(Ascend, "every function of AscendCL can fail, and all is given back") {
  control.reset();
  int number = 0;
  int32_t numbers[3] = {};
  uint32_t count = 0;
  size_t sizes[2] = {};
  void* context = nullptr;
  void* device = nullptr;
  void* host = nullptr;
  void* stream = nullptr;
  void* event = nullptr;
  void* other_event = nullptr;
  PointerAttributes attributes{};
  check_story(
      control,
      {{"aclInit", [&] { return call("aclInit", static_cast<const char*>(nullptr)); }},
       {"aclrtGetVersion",
        [&] { return call("aclrtGetVersion", &numbers[0], &numbers[1], &numbers[2]); }},
       {"aclrtGetRunMode", [&] { return call("aclrtGetRunMode", &number); }},
       {"aclrtGetDeviceCount", [&] { return call("aclrtGetDeviceCount", &count); }},
       {"aclrtSetDevice", [&] { return call("aclrtSetDevice", 1); }},
       {"aclrtGetDevice", [&] { return call("aclrtGetDevice", &numbers[0]); }},
       {"aclrtGetCurrentContext", [&] { return call("aclrtGetCurrentContext", &context); }},
       {"aclrtSetCurrentContext", [&] { return call("aclrtSetCurrentContext", context); }},
       {"aclrtGetMemInfo", [&] { return call("aclrtGetMemInfo", 1, &sizes[0], &sizes[1]); }},
       {"aclrtMalloc", [&] { return call("aclrtMalloc", &device, size_t{1000}, 0); }},
       {"aclrtMallocHost", [&] { return call("aclrtMallocHost", &host, size_t{1000}); }},
       {"aclrtPointerGetAttributes",
        [&] {
          return call("aclrtPointerGetAttributes", static_cast<const void*>(device), &attributes);
        }},
       {"aclrtCreateStream", [&] { return call("aclrtCreateStream", &stream); }},
       {"aclrtMemcpyAsync", [&] { return copy(host, 1000, device, 1000, 2, stream); }},
       {"aclrtCreateEvent", [&] { return call("aclrtCreateEvent", &event); }},
       {"aclrtCreateEventExWithFlag",
        [&] { return call("aclrtCreateEventExWithFlag", &other_event, 1U); }},
       {"aclrtRecordEvent", [&] { return call("aclrtRecordEvent", event, stream); }},
       {"aclrtStreamWaitEvent", [&] { return call("aclrtStreamWaitEvent", stream, event); }},
       {"aclrtSynchronizeEvent", [&] { return call("aclrtSynchronizeEvent", event); }},
       {"aclrtQueryEventStatus", [&] { return call("aclrtQueryEventStatus", event, &number); }},
       {"aclrtSynchronizeStream", [&] { return call("aclrtSynchronizeStream", stream); }},
       {"aclrtSynchronizeDevice", [&] { return call("aclrtSynchronizeDevice"); }},
       {"aclrtSynchronizeStreamWithTimeout",
        [&] { return call("aclrtSynchronizeStreamWithTimeout", stream, -1); }},
       {"aclrtDestroyEvent", [&] { return call("aclrtDestroyEvent", event); }},
       {"aclrtDestroyStream", [&] { return call("aclrtDestroyStream", stream); }},
       {"aclrtFreeHost", [&] { return call("aclrtFreeHost", host); }},
       {"aclrtFree", [&] { return call("aclrtFree", device); }},
       // The rest by the way, in the last step's favour.
       {"aclrtResetDevice",
        [&] {
          if (other_event != nullptr && call("aclrtDestroyEvent", other_event) == 0) {
            other_event = nullptr;
          }
          return call("aclrtResetDevice", 1);
        }},
       {"aclFinalize", [&] { return call("aclFinalize"); }}});
  CHECK(count == 2);
  CHECK(numbers[0] == 1);
  CHECK(number == 1);
  CHECK(attributes.type == 1);
  CHECK(attributes.id == 1);
  control.reset();
}

TEST_CASE_FIXTURE(Ascend, "AscendCL insists on what the real one does") {
  control.reset();
  recent_error();
  void* device = nullptr;
  CHECK(call("aclrtMalloc", &device, size_t{1000}, 0) == 100001);
  CHECK(call("aclInit", static_cast<const char*>(nullptr)) == 0);
  CHECK(call("aclInit", static_cast<const char*>(nullptr)) == 100002);
  CHECK(contains(recent_error(), "aclInit was called before"));
  CHECK(recent_error() == nullptr);
  CHECK(call("aclrtMalloc", &device, size_t{1000}, 0) == 107002);
  CHECK(call("aclrtSynchronizeDevice") == 107002);
  CHECK(call("aclrtSetDevice", 2) == 107001);

  // Counted.
  CHECK(call("aclrtSetDevice", 0) == 0);
  CHECK(call("aclrtSetDevice", 0) == 0);
  CHECK(call("aclrtResetDevice", 0) == 0);
  CHECK(call("aclrtMalloc", &device, size_t{1000}, 0) == 0);

  void* host = nullptr;
  void* stream = nullptr;
  CHECK(call("aclrtMallocHost", &host, size_t{1000}) == 0);
  CHECK(reinterpret_cast<uintptr_t>(host) % kPageBytes == 64);
  CHECK(call("aclrtCreateStream", &stream) == 0);
  auto* const at = static_cast<unsigned char*>(host);
  CHECK(copy(at + 1, 999, device, 100, 2, stream) == 107008);
  CHECK(copy(at, 99, device, 100, 2, stream) == 107000);
  CHECK(copy(at, 1000, device, 0, 2, stream) == 107000);
  CHECK(copy(at, 1000, device, 100, 0, stream) == 107000);
  CHECK(copy(at, 1000, device, 100, 1, stream) == 107000);
  CHECK(copy(at + 64, 936, device, 101, 2, stream) == 0);
  CHECK(call("aclrtSynchronizeStream", reinterpret_cast<void*>(uintptr_t{1})) == 107017);

  void* event = nullptr;
  int status = 7;
  CHECK(call("aclrtCreateEventExWithFlag", &event, 1U) == 0);
  CHECK(call("aclrtQueryEventStatus", event, &status) == 0);
  CHECK(status == 0);
  CHECK(call("aclrtStreamWaitEvent", stream, event) == 107000);  // would wait for ever
  CHECK(call("aclrtSynchronizeEvent", event) == 107000);
  void* const training = control.stream_create(0);
  control.stream_pause(training);
  CHECK(call("aclrtRecordEvent", event, training) == 0);
  CHECK(call("aclrtStreamWaitEvent", stream, event) == 0);
  CHECK(call("aclrtSynchronizeStreamWithTimeout", stream, 10) == 107019);
  control.stream_resume(training);
  CHECK(call("aclrtSynchronizeStreamWithTimeout", stream, 100000) == 0);
  CHECK(call("aclrtQueryEventStatus", event, &status) == 0);
  CHECK(status == 1);

  PointerAttributes attributes{};
  const auto type_of = [&](const void* pointer) {
    CHECK(call("aclrtPointerGetAttributes", pointer, &attributes) == 0);
    return attributes.type;
  };
  CHECK(type_of(at + 999) == 0);
  CHECK(type_of(static_cast<unsigned char*>(device) + 999) == 1);
  CHECK(type_of(&attributes) == 2);

  CHECK(call("aclrtSetDevice", 1) == 0);
  CHECK(call("aclrtSynchronizeStream", stream) == 107003);
  CHECK(call("aclrtResetDevice", 1) == 0);
  CHECK(call("aclrtSynchronizeStream", stream) == 107002);
  CHECK(call("aclrtSetDevice", 0) == 0);
  CHECK(call("aclrtResetDevice", 0) == 0);

  control.stream_destroy(training);
  CHECK(call("aclrtDestroyEvent", event) == 0);
  CHECK(call("aclrtDestroyStream", stream) == 0);
  CHECK(call("aclrtFreeHost", host) == 0);
  CHECK(call("aclrtFree", device) == 0);
  CHECK(call("aclrtResetDevice", 0) == 0);
  CHECK(call("aclFinalize") == 0);
  control.check_nothing_lives();
  control.reset();
}

}  // namespace
}  // namespace stand_in::test
