#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "device/device_api.h"

// The C table of device_api.h as C++ objects: what fails throws Error(kDevice) with the device's
// name and the backend's words, what was created is given back.
namespace mindckpt {

enum class CopyDirection : int32_t {
  kToHost = MINDCKPT_DEVICE_TO_HOST,
  kToDevice = MINDCKPT_HOST_TO_DEVICE,
  kOnDevice = MINDCKPT_DEVICE_TO_DEVICE,
};

// A backend whose table was checked and whose init succeeded.
class Backend {
 public:
  // Calls init. Throws Error(kUnavailable) that says why this machine can't use it.
  explicit Backend(const mindckpt_device_backend& table);
  ~Backend();  // shutdown, unless this is a forked child
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  const std::string& name() const noexcept { return name_; }
  const std::string& version() const noexcept { return version_; }
  int32_t dlpack_device_type() const noexcept { return table_.dlpack_device_type; }
  size_t copy_alignment() const noexcept { return table_.copy_alignment; }
  int32_t device_count() const;  // throws Error(kDevice)

  // Which of its devices the pointer belongs to; -1: none.
  int32_t device_of(const void* pointer) const;

  // Throws Error(kDevice): "<device>: <call>: <last_error>" when `status` is a failure, or
  // Error(kUnavailable) in a forked child, where no driver works any more.
  void check(mindckpt_status status, const char* call, int32_t device = -1) const;
  // Before anything is asked of the driver: throws Error(kUnavailable) in a forked child.
  void check_process() const;
  // Whether this is the copy of a forked child: what was created is not to be given back here.
  bool is_foreign() const noexcept;

  const mindckpt_device_backend& table() const noexcept { return table_; }

 private:
  mindckpt_device_backend
      table_{};  // a copy of our size: functions that the backend lacks are null
  std::string name_;
  std::string version_;
  pid_t process_;
};

// One attached device. Lives as long as its registry.
class Device {
 public:
  Device(Backend& backend, int32_t ordinal);  // attaches; throws Error(kDevice)
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  Backend& backend() const noexcept { return backend_; }
  int32_t ordinal() const noexcept { return ordinal_; }
  const std::string& name() const noexcept { return name_; }  // such as "cuda:0"

  // Bytes that are free, and in all. Binds the thread itself. Throws Error(kDevice).
  struct MemoryInfo {
    uint64_t free_nbytes;
    uint64_t total_nbytes;
  };
  MemoryInfo memory_info() const;

  // Waits for all that is in any stream of the device; for nothing where the backend can't. Binds
  // the thread itself. Throws Error(kDevice): also while a stream of CUDA's is being captured.
  void sync() const;

  void check(mindckpt_status status, const char* call) const {
    backend_.check(status, call, ordinal_);
  }

 private:
  Backend& backend_;
  int32_t ordinal_;
  std::string name_;
};

// Makes a device current on this thread while it lives. May nest. Everything below is used under
// one, except that constructors and destructors see to it themselves.
class DeviceBinding {
 public:
  explicit DeviceBinding(const Device& device);  // throws Error(kDevice)
  ~DeviceBinding();
  DeviceBinding(const DeviceBinding&) = delete;
  DeviceBinding& operator=(const DeviceBinding&) = delete;

 private:
  const Device& device_;
};

enum class EventUse : uint32_t { kStream = MINDCKPT_EVENT_STREAM, kHost = MINDCKPT_EVENT_HOST };

class DeviceEvent {
 public:
  DeviceEvent(const Device& device, EventUse use);
  ~DeviceEvent();
  DeviceEvent(DeviceEvent&& other) noexcept;
  DeviceEvent& operator=(DeviceEvent&& other) noexcept;

  void record(void* stream);  // a raw handle: the caller's own, or DeviceStream::get()
  bool happened() const;
  void sync() const;
  void* get() const noexcept { return handle_; }

 private:
  const Device* device_;
  void* handle_ = nullptr;
};

// A stream of the caller's in which a device's tensors are made, and overwritten.
struct Producer {
  const Device* device;
  void* stream;  // a raw handle, as the framework has it
};

class DeviceStream {
 public:
  DeviceStream(const Device& device, CopyDirection direction);
  ~DeviceStream();  // waits for what is in it
  DeviceStream(DeviceStream&& other) noexcept;
  DeviceStream& operator=(DeviceStream&& other) noexcept;

  void wait(const DeviceEvent& event);
  // What is put into it from now on comes after what the producer's stream holds. To be called on
  // the thread whose stream that is. Throws Error(kInvalidArgument) for one that is being captured
  // into a graph. Binds the thread itself.
  void start_after(const Producer& producer);
  void sync() const;
  // Waits for all that is in it, on the way out of a failure. Binds the thread itself.
  void drain() const noexcept;
  void copy(void* to, const void* from, size_t nbytes, CopyDirection direction);
  // Many copies; by the backend's batch call where it has one.
  struct Copy {
    void* to;
    const void* from;
    size_t nbytes;
  };
  void copy(const std::vector<Copy>& copies, CopyDirection direction);
  void* get() const noexcept { return handle_; }

 private:
  const Device* device_;
  void* handle_ = nullptr;
};

// Makes a caller's stream wait for an event. Refuses one that is being captured into a graph, as
// Error(kInvalidArgument).
void stream_wait(const Device& device, void* stream, const DeviceEvent& event);
void check_not_capturing(const Device& device, void* stream);

// Pinned host memory, page-aligned; or memory of a device.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  PinnedMemory(const Device& device, size_t nbytes);  // throws Error(kDevice): also: no memory
  ~PinnedMemory();
  PinnedMemory(PinnedMemory&& other) noexcept;
  PinnedMemory& operator=(PinnedMemory&& other) noexcept;

  std::byte* data() const noexcept { return data_; }
  size_t size() const noexcept { return nbytes_; }

 private:
  void swap(PinnedMemory& other) noexcept;

  const Device* device_ = nullptr;
  std::byte* data_ = nullptr;
  size_t nbytes_ = 0;
  bool registered_ = false;  // pages of our own, in whole pieces; else by host_alloc
};

class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(const Device& device, size_t nbytes);  // throws Error(kDevice): also: no memory
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;

  std::byte* data() const noexcept { return data_; }
  size_t size() const noexcept { return nbytes_; }

 private:
  void swap(DeviceMemory& other) noexcept;

  const Device* device_ = nullptr;
  std::byte* data_ = nullptr;
  size_t nbytes_ = 0;
};

}  // namespace mindckpt
