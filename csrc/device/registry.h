#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device/device.h"

namespace mindckpt {

// What can be said about a backend, usable or not.
struct BackendInfo {
  std::string name;
  std::string origin;   // "built in", or a plug-in's path or entry point
  std::string version;  // "" where it is not usable
  int32_t device_count = 0;
  std::string unusable;  // why; "" where it is usable
};

// The backends and devices of this process. Safe from any thread. No driver is touched before a
// device is asked for.
class DeviceRegistry {
 public:
  DeviceRegistry();  // knows the built-in backends, "cuda" and "ascend"
  ~DeviceRegistry();
  DeviceRegistry(const DeviceRegistry&) = delete;
  DeviceRegistry& operator=(const DeviceRegistry&) = delete;

  // Adds an out-of-tree backend; `table` lives until the process ends. One that is there already
  // (the same table) is no error. Throws Error(kInvalidArgument): another ABI, a function missing,
  // a bad name, or a name that another backend has.
  void add(const mindckpt_device_backend* table, const std::string& origin);
  // The same for a shared library with the entry symbol; a name without '/' is looked for where the
  // system has its libraries. Returns the backend's name. Throws Error(kInvalidArgument) when it
  // can't be loaded.
  //
  // What the environment variable MINDCKPT_DEVICE_PLUGINS lists, separated by ':', is loaded by
  // itself before the first answer of any function below.
  std::string load_plugin(const std::string& path);

  // Every backend known, in the order of their adding, each initialised to see whether it can be
  // used; then the environment's plug-ins that could not be loaded, by their paths.
  std::vector<BackendInfo> list();

  // Throws Error(kUnavailable) that says why: no such backend, no driver, no such device, a forked
  // child of a process that used the backend; Error(kDevice) when the driver fails.
  Device& device(std::string_view backend, int32_t ordinal);

  // Whose memory the pointer is in, among the backends that are in use or usable; nullptr: none's.
  // Throws as device() does.
  Device* device_of(const void* pointer);
  // The same for many pointers at once.
  std::vector<Device*> devices_of(std::span<const void* const> pointers);
  // The backend whose DLPack device type this is: its name, "" for none. Touches no driver.
  std::string name_of_dlpack_type(int32_t type);

  // Devices that are attached already.
  std::vector<Device*> attached() const;

 private:
  struct Known {
    const mindckpt_device_backend* table;
    std::string origin;
    std::unique_ptr<Backend> backend;  // once it was initialised
    std::string unusable;              // or why that failed
    std::map<int32_t, std::unique_ptr<Device>> devices;
  };

  std::unique_lock<std::mutex> lock() const;

  // All of these with the lock held.
  void read_environment();
  void add_known(const mindckpt_device_backend* table, const std::string& origin);
  std::string load(const std::string& path);
  Backend& backend(Known& known);  // initialises it; throws Error(kUnavailable)
  Device* find(const void* pointer);
  Device& attach(Known& known, int32_t ordinal);

  mutable std::mutex mutex_;
  // Where a driver was initialised first: forked children can't use it. 0: none was.
  std::atomic<pid_t> process_{0};
  bool environment_read_ = false;
  std::vector<std::unique_ptr<Known>> known_;
  std::vector<BackendInfo> not_loaded_;  // plug-ins of the environment
};

// The tables of the built-in backends.
const mindckpt_device_backend* cuda_backend();
const mindckpt_device_backend* ascend_backend();

}  // namespace mindckpt
