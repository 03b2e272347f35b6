#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "base/dynamic_library.h"
#include "device/registry.h"
#include "support/errors.h"
#include "support/random.h"
#include "support/stand_in.h"

namespace mindckpt::test {

// A function of a stand-in library, by its name.
inline DynamicLibrary::Symbol symbol_of(const StandIn& stand_in, const char* name) {
  std::string why;
  const auto library = DynamicLibrary::load(stand_in.path(), DynamicLibrary::Symbols::kAtOnce, why);
  REQUIRE_MESSAGE(library.has_value(), why);
  const DynamicLibrary::Symbol symbol = library->symbol(name);
  REQUIRE_MESSAGE(symbol.address != nullptr, name);
  return symbol;
}

inline void load_backend(DeviceRegistry& registry, const StandIn& stand_in) {
  if (stand_in.backend() == "sim") registry.load_plugin(stand_in.path());
}

// Sends bytes to the device, about in it and back, using all that there is of device.h. What may
// throw is called outside of CHECK, which would keep it.
inline void exercise(DeviceRegistry& registry, StandIn& stand_in, void* framework_stream) {
  constexpr size_t kBytes = 256 << 10;
  constexpr size_t kHalf = kBytes / 2;
  Device& device = registry.device(stand_in.backend(), 0);
  const Device::MemoryInfo info = device.memory_info();
  CHECK(info.free_nbytes >= kBytes);

  PinnedMemory sent(device, kBytes);
  PinnedMemory received(device, kBytes);
  const DeviceMemory first(device, kBytes);
  const DeviceMemory second(device, kBytes);
  DeviceStream upload(device, CopyDirection::kToDevice);
  DeviceStream inside(device, CopyDirection::kOnDevice);
  DeviceStream download(device, CopyDirection::kToHost);
  DeviceEvent uploaded(device, EventUse::kStream);
  DeviceEvent moved(device, EventUse::kStream);
  DeviceEvent downloaded(device, EventUse::kHost);
  const Bytes bytes = Random(5).bytes(kBytes);
  std::ranges::copy(bytes, sent.data());
  std::memset(received.data(), 0, kBytes);
  const Device* const of_device_memory = registry.device_of(second.data() + kHalf);
  CHECK(of_device_memory == &device);
  const Device* const of_host_memory = registry.device_of(bytes.data());
  CHECK(of_host_memory == nullptr);

  const DeviceBinding binding(device);
  check_not_capturing(device, framework_stream);
  upload.copy(first.data(), sent.data(), kBytes, CopyDirection::kToDevice);
  uploaded.record(upload.get());
  inside.wait(uploaded);
  inside.copy({{second.data() + kHalf, first.data(), kHalf},
               {nullptr, nullptr, 0},
               {second.data(), first.data() + kHalf, kHalf}},
              CopyDirection::kOnDevice);
  moved.record(inside.get());
  download.wait(moved);
  download.copy({{received.data(), second.data() + kHalf, kHalf},
                 {received.data() + kHalf, second.data(), kHalf}},
                CopyDirection::kToHost);
  downloaded.record(download.get());
  stream_wait(device, framework_stream, downloaded);
  downloaded.sync();
  const bool happened = downloaded.happened();
  CHECK(happened);
  upload.sync();
  device.sync();
  CHECK(same({received.data(), kBytes}, bytes));
}

inline std::map<std::string, int64_t> live(const StandIn& stand_in) {
  std::map<std::string, int64_t> counts;
  for (const char* kind : {"stream", "event", "device_memory", "pinned_memory", "context"}) {
    counts[kind] = stand_in.live(kind);
  }
  return counts;
}

// To be run in a process of its own, see run_case(): some failures leave things behind.
// Lets each call of each function of the backend fail, one at a time. Every failure must end in an
// Error that names the backend, and leave nothing behind, but of these functions:
struct Exceptions {
  // What a destructor calls, or what there is another way for.
  std::set<std::string> may_pass;
  // What is not given back because just that fails.
  std::set<std::string> may_leave;
};

inline void fail_each_call(const std::string& backend, const Exceptions& exceptions,
                           void (*clean)(const StandIn&) = nullptr) {
  StandIn& stand_in = StandIn::of(backend);
  stand_in.reset();
  void* const framework_stream = stand_in.stream_create(0);
  std::istringstream functions(stand_in.functions());
  std::set<std::string> used;
  for (std::string function; std::getline(functions, function);) {
    for (int64_t nth = 1;; ++nth) {
      CAPTURE(function);
      CAPTURE(nth);
      REQUIRE(nth < 1000);
      const auto before = live(stand_in);
      stand_in.reset();
      stand_in.fail(function.c_str(), nth);
      std::string message;
      try {
        DeviceRegistry registry;
        load_backend(registry, stand_in);
        exercise(registry, stand_in, framework_stream);
      } catch (const Error& error) {
        message = error.what();
        const bool is_expected =
            error.kind() == ErrorKind::kDevice || error.kind() == ErrorKind::kUnavailable;
        CHECK(is_expected);
      }
      const bool failed = stand_in.calls(function.c_str()) >= nth;
      stand_in.fail("", 0);
      if (clean != nullptr) clean(stand_in);
      if (!exceptions.may_leave.contains(function)) CHECK(live(stand_in) == before);
      if (!failed) {
        CHECK(message == "");
        break;
      }
      used.insert(function);
      CAPTURE(message);
      if (message.empty()) {
        CHECK(exceptions.may_pass.contains(function));
      } else {
        CHECK(message.starts_with(backend + ":"));
        CHECK(message.size() > backend.size() + 10);
        CHECK(message.find('\n') == std::string::npos);
      }
    }
  }
  CHECK(used.size() > 15);
  stand_in.stream_destroy(framework_stream);
  stand_in.reset();
}

}  // namespace mindckpt::test
