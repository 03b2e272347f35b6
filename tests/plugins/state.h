#pragma once

#include <sys/types.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "simulation.h"
#include "stream.h"

// What the parts of the simulation share, and nobody else sees.
namespace stand_in {

struct Event {
  int32_t device;
  std::mutex mutex;
  std::shared_ptr<Marker> latest;  // null: never recorded

  std::shared_ptr<Marker> marker() {
    const std::lock_guard lock(mutex);
    return latest;
  }
};

// Memory that copies can use. Where it is a device's, `bytes` is where its bytes really lie.
struct Region {
  enum class Kind { kDevice, kAllocated, kRegistered };

  Kind kind = Kind::kDevice;
  Owner owner = Owner::kEngine;
  int32_t device = 0;
  std::byte* begin = nullptr;
  size_t nbytes = 0;
  std::byte* bytes = nullptr;
  size_t mapped_nbytes = 0;           // kDevice: from `begin` on, and from `bytes` on
  void* allocation = nullptr;         // kAllocated: what is to be freed
  std::atomic<int64_t> in_flight{0};  // operations in streams that use it

  Region() = default;
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region();
};

// Keeps count of an operation that uses a region.
class Use {
 public:
  explicit Use(std::shared_ptr<Region> region) : region_(std::move(region)) {
    region_->in_flight.fetch_add(1, kRelaxed);
  }
  Use(Use&& other) noexcept : region_(std::move(other.region_)) {}
  Use& operator=(Use&&) = delete;
  ~Use() {
    if (region_) region_->in_flight.fetch_sub(1, kRelaxed);
  }

 private:
  std::shared_ptr<Region> region_;
};

class Engine {
 public:
  std::atomic<double> bytes_per_second{0};
  std::atomic<double> latency_seconds{0};
  std::atomic<uint64_t> copied{0};
  std::atomic<int64_t> busy{0};

  int64_t latency() const { return nanoseconds(latency_seconds.load(kRelaxed)); }
  int64_t duration(size_t nbytes) const {
    const double speed = bytes_per_second.load(kRelaxed);
    if (speed <= 0) return latency();
    return latency() + static_cast<int64_t>(static_cast<double>(nbytes) / speed * 1e9 + 0.5);
  }
  // Takes the engine for that long, at the earliest from `ready`; returns from when.
  int64_t reserve(int64_t ready, int64_t duration) {
    busy.fetch_add(duration, kRelaxed);
    int64_t free_at = free_at_.load(kRelaxed);
    int64_t begin = 0;
    do {
      begin = std::max(free_at, ready);
    } while (!free_at_.compare_exchange_weak(free_at, begin + duration, kRelaxed));
    return begin;
  }

 private:
  std::atomic<int64_t> free_at_{0};
};

struct Device {
  std::array<Engine, kNumDirections> engines;
  std::atomic<int64_t> contexts{0};
  std::unique_ptr<Stream> default_stream;
  std::atomic<bool> default_used{false};
  uint64_t used_nbytes = 0;  // under State::memory_mutex
};

// Never destroyed: streams may still run when the process ends.
struct State {
  State() {
    for (int32_t i = 0; i < kMostDevices; ++i) {
      devices[static_cast<size_t>(i)].default_stream =
          std::make_unique<Stream>(i, Stream::Kind::kDefault, Owner::kFramework);
    }
  }

  std::array<Device, kMostDevices> devices;
  std::atomic<int32_t> num_devices{kDefaultDevices};
  std::atomic<uint64_t> total_nbytes{kDefaultMemory};
  std::atomic<int32_t> driver{kDefaultDriver};
  std::atomic<int> init_error{0};
  std::atomic<int32_t> captures{0};
  std::atomic<pid_t> process{0};  // 0: nothing happened yet that a fork would break

  std::mutex memory_mutex;
  std::map<const std::byte*, std::shared_ptr<Region>> regions;

  std::mutex streams_mutex;
  std::map<void*, std::shared_ptr<Stream>> streams;
  std::vector<std::weak_ptr<Stream>> thread_streams;

  std::mutex events_mutex;
  std::map<void*, std::shared_ptr<Event>> events;

  bool has(int32_t device) const { return device >= 0 && device < num_devices.load(); }
  Device& device(int32_t index) { return devices[static_cast<size_t>(index)]; }
};

State& state();

// Keeps the reason, and returns the result.
Result refuse(Result result, std::string reason);
std::string name_of(const void* pointer);
// Dies unless the framework's call succeeded.
void require(Result result, const char* function);

// The region that holds all of [pointer, pointer + nbytes), which must be a device's, or the host's
// pinned memory. `bytes`: where they really lie.
Result use_memory(const void* pointer, size_t nbytes, bool on_device, std::shared_ptr<Region>* used,
                  std::byte** bytes);

// Null for a handle that is none.
std::shared_ptr<Stream> find_stream(int32_t device, void* handle);
// Before each operation: refuses it where a capture forbids it, and sees to the order between the
// default stream and others.
Result order(Stream& stream);

}  // namespace stand_in
