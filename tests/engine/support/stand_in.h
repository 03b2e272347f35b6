#pragma once

#include <dlfcn.h>
#include <doctest/doctest.h>

#include <deque>
#include <string>
#include <vector>

#include "device/registry.h"
#include "device/staging.h"
#include "support/parameters.h"

namespace mindckpt::test {

// A stand-in device library and the functions that steer it; tests/plugins/stand_in.h specifies
// them. Loaded once, it is also what the backend finds under the real library's name.
class StandIn {
 public:
  // "cuda", "ascend" or "sim".
  static StandIn& of(const std::string& backend);

  const std::string& backend() const { return backend_; }
  const std::string& path() const { return path_; }

  void (*reset)();
  void (*fail)(const char* function, int64_t nth);
  int64_t (*calls)(const char* function);
  const char* (*functions)();
  int64_t (*live)(const char* kind);
  void (*set_memory)(uint64_t total_nbytes);
  void (*set_speed)(int32_t direction, double bytes_per_second, double latency_seconds);
  void (*set_random_delay)(uint64_t seed, double max_seconds);
  void* (*allocate)(int32_t device, size_t nbytes);
  void (*release)(void* pointer);
  void (*write)(void* pointer, const void* from, size_t nbytes);
  void (*read)(const void* pointer, void* to, size_t nbytes);
  void* (*stream_create)(int32_t device);
  void (*stream_destroy)(void* stream);
  void (*stream_sync)(void* stream);
  void (*stream_write)(void* stream, void* pointer, const void* from, size_t nbytes);
  void (*stream_fill)(void* stream, void* pointer, int value, size_t nbytes);
  void (*stream_delay)(void* stream, double seconds);
  void (*stream_pause)(void* stream);
  void (*stream_resume)(void* stream);
  void (*stream_begin_capture)(void* stream, int on);

 private:
  explicit StandIn(const std::string& backend);

  std::string backend_;
  std::string path_;
};

// The names of all stand-ins.
inline const std::vector<std::string>& every_backend() {
  static const std::vector<std::string> names{"cuda", "ascend", "sim"};
  return names;
}

// What tests of devices need: a registry that knows the stand-in's backend, and a pool.
struct DeviceFixture {
  explicit DeviceFixture(const std::string& backend,
                         uint64_t staging_limit = StagingPools::kDefaultLimitBytes);
  ~DeviceFixture() { stand_in.reset(); }

  StandIn& stand_in;
  DeviceRegistry registry;
  StagingPools pools;
  Device& device;
};

// Copies of parameters' payloads in a device's memory, as a framework would hold them.
class DeviceParameters {
 public:
  // Those with contiguous payloads that `choose` picks by their place; the others stay on the host.
  template <typename Choose>
  DeviceParameters(StandIn& stand_in, const Parameters& parameters, const Choose& choose)
      : stand_in_(stand_in), refs_(parameters.refs()) {
    for (size_t i = 0; i < refs_.size(); ++i) {
      TensorRef& tensor = refs_[i];
      Device* device = choose(i);
      const bool is_contiguous = tensor.layout.is_payload() && tensor.nbytes > 0;
      if (device == nullptr || !is_contiguous || tensor.type == "str") continue;
      void* memory = stand_in.allocate(device->ordinal(), tensor.nbytes);
      REQUIRE(memory != nullptr);
      stand_in.write(memory, tensor.layout.data, tensor.nbytes);
      tensor.layout.data = static_cast<const std::byte*>(memory);
      tensor.device = device;
      memory_.push_back(memory);
    }
  }
  ~DeviceParameters() {
    for (void* memory : memory_) stand_in_.release(memory);
  }
  DeviceParameters(const DeviceParameters&) = delete;
  DeviceParameters& operator=(const DeviceParameters&) = delete;

  const std::vector<TensorRef>& refs() const { return refs_; }
  size_t on_device() const { return memory_.size(); }

  // What the training does next: every payload on the device becomes `value`, in stream order.
  void overwrite(void* stream, int value) const {
    for (const TensorRef& tensor : refs_) {
      if (tensor.device == nullptr) continue;
      stand_in_.stream_fill(stream, const_cast<std::byte*>(tensor.layout.data), value,
                            tensor.nbytes);
    }
  }
  // And the values of the call again.
  void restore(const Parameters& parameters) const {
    const std::vector<TensorRef> originals = parameters.refs();
    for (size_t i = 0; i < refs_.size(); ++i) {
      if (refs_[i].device == nullptr) continue;
      stand_in_.write(const_cast<std::byte*>(refs_[i].layout.data), originals[i].layout.data,
                      refs_[i].nbytes);
    }
  }

 private:
  StandIn& stand_in_;
  std::vector<TensorRef> refs_;
  std::deque<void*> memory_;
};

}  // namespace mindckpt::test
