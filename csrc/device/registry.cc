#include "device/registry.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <thread>
#include <utility>

#include "base/dynamic_library.h"
#include "base/error.h"
#include "base/process.h"

namespace mindckpt {

namespace {

// No staging memory is aligned to more.
constexpr uint32_t kMostAlignment = 256;

bool is_name(const char* name) {
  if (name == nullptr || name[0] < 'a' || name[0] > 'z') return false;
  for (const char* c = name; *c != '\0'; ++c) {
    if ((*c < 'a' || *c > 'z') && (*c < '0' || *c > '9')) return false;
  }
  return true;
}

// The first function that must be there and is not; nullptr: none.
const char* missing_function(const mindckpt_device_backend& table) {
#define MINDCKPT_REQUIRE(function) \
  if (table.function == nullptr) return #function
  MINDCKPT_REQUIRE(init);
  MINDCKPT_REQUIRE(last_error);
  MINDCKPT_REQUIRE(version);
  MINDCKPT_REQUIRE(device_count);
  MINDCKPT_REQUIRE(attach);
  MINDCKPT_REQUIRE(detach);
  MINDCKPT_REQUIRE(bind_thread);
  MINDCKPT_REQUIRE(unbind_thread);
  MINDCKPT_REQUIRE(pointer_info);
  MINDCKPT_REQUIRE(host_alloc);
  MINDCKPT_REQUIRE(host_free);
  MINDCKPT_REQUIRE(device_alloc);
  MINDCKPT_REQUIRE(device_free);
  MINDCKPT_REQUIRE(memory_info);
  MINDCKPT_REQUIRE(stream_create);
  MINDCKPT_REQUIRE(stream_destroy);
  MINDCKPT_REQUIRE(stream_wait_event);
  MINDCKPT_REQUIRE(stream_sync);
  MINDCKPT_REQUIRE(event_create);
  MINDCKPT_REQUIRE(event_destroy);
  MINDCKPT_REQUIRE(event_record);
  MINDCKPT_REQUIRE(event_query);
  MINDCKPT_REQUIRE(event_sync);
  MINDCKPT_REQUIRE(copy_async);
#undef MINDCKPT_REQUIRE
  // Both or none.
  if (table.host_register != nullptr && table.host_unregister == nullptr) return "host_unregister";
  if (table.host_unregister != nullptr && table.host_register == nullptr) return "host_register";
  return nullptr;
}

// Everything that was there in version 1.0 and is not optional lies before this.
constexpr size_t kLeastStructBytes = offsetof(mindckpt_device_backend, copy_batch_async);

// Why the table is no good; "" when it is. Reads nothing beyond what is known to be there.
std::string problem_of(const mindckpt_device_backend* table) {
  if (table == nullptr) return "there is no table";
  if (table->abi_major != MINDCKPT_DEVICE_ABI_MAJOR) {
    return "it is for version " + std::to_string(table->abi_major) +
           " of the device interface, this mindckpt has version " +
           std::to_string(MINDCKPT_DEVICE_ABI_MAJOR);
  }
  if (table->struct_size < kLeastStructBytes) {
    return "its table has " + std::to_string(table->struct_size) + " bytes, at least " +
           std::to_string(kLeastStructBytes) + " are needed";
  }
  if (!is_name(table->name)) {
    return "its name must be lower-case letters and digits, and begin with a letter";
  }
  if (!std::has_single_bit(table->copy_alignment) || table->copy_alignment > kMostAlignment) {
    return "its copy_alignment must be a power of two and at most " +
           std::to_string(kMostAlignment) + ", not " + std::to_string(table->copy_alignment);
  }
  if (const char* missing = missing_function(*table)) {
    return std::string("its function ") + missing + " is missing";
  }
  return {};
}

}  // namespace

DeviceRegistry::DeviceRegistry() {
  add_known(cuda_backend(), "built in");
  add_known(ascend_backend(), "built in");
}

DeviceRegistry::~DeviceRegistry() = default;

// In a forked child the mutex may be held by a thread that is not there. Nobody who is there holds
// it for long.
std::unique_lock<std::mutex> DeviceRegistry::lock() const {
  const pid_t process = process_.load(std::memory_order_relaxed);
  if (process == 0 || process == process_id()) return std::unique_lock(mutex_);
  std::unique_lock held(mutex_, std::try_to_lock);
  for (int tries = 0; !held && tries < 5000; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    held.try_lock();
  }
  if (!held) {
    throw Error(ErrorKind::kUnavailable,
                "devices can't be used in a process that was forked while they were: start "
                "processes by the \"spawn\" method");
  }
  return held;
}

void DeviceRegistry::add(const mindckpt_device_backend* table, const std::string& origin) {
  const auto held = lock();
  add_known(table, origin);
}

std::string DeviceRegistry::load_plugin(const std::string& path) {
  const auto held = lock();
  return load(path);
}

std::vector<BackendInfo> DeviceRegistry::list() {
  const auto held = lock();
  read_environment();
  std::vector<BackendInfo> infos;
  for (const auto& known : known_) {
    BackendInfo info;
    info.name = known->table->name;
    info.origin = known->origin;
    try {
      const Backend& usable = backend(*known);
      info.device_count = usable.device_count();
      info.version = usable.version();
    } catch (const Error& error) {
      info.unusable = error.what();
    }
    infos.push_back(std::move(info));
  }
  infos.insert(infos.end(), not_loaded_.begin(), not_loaded_.end());
  return infos;
}

Device& DeviceRegistry::device(std::string_view name, int32_t ordinal) {
  const auto held = lock();
  read_environment();
  std::string names;
  for (const auto& known : known_) {
    if (name != known->table->name) {
      names += names.empty() ? "" : ", ";
      names += known->table->name;
      continue;
    }
    const int32_t count = backend(*known).device_count();
    if (ordinal < 0 || ordinal >= count) {
      throw Error(ErrorKind::kUnavailable, "there is no " + std::string(name) + ':' +
                                               std::to_string(ordinal) + " among " +
                                               std::to_string(count) + " devices");
    }
    return attach(*known, ordinal);
  }
  std::string why = "no device backend is called '" + std::string(name) + "'; there are " + names;
  for (const BackendInfo& plugin : not_loaded_) {
    why += "; the plug-in " + plugin.origin + " could not be loaded: " + plugin.unusable;
  }
  throw Error(ErrorKind::kUnavailable, why);
}

Device* DeviceRegistry::device_of(const void* pointer) { return devices_of({&pointer, 1}).front(); }

std::vector<Device*> DeviceRegistry::devices_of(std::span<const void* const> pointers) {
  const auto held = lock();
  read_environment();
  std::vector<Device*> devices;
  devices.reserve(pointers.size());
  for (const void* pointer : pointers) devices.push_back(find(pointer));
  return devices;
}

std::string DeviceRegistry::name_of_dlpack_type(int32_t type) {
  const auto held = lock();
  read_environment();
  for (const auto& known : known_) {
    if (type != 0 && known->table->dlpack_device_type == type) return known->table->name;
  }
  return {};
}

std::vector<Device*> DeviceRegistry::attached() const {
  const auto held = lock();
  std::vector<Device*> devices;
  for (const auto& known : known_) {
    for (const auto& [ordinal, device] : known->devices) devices.push_back(device.get());
  }
  return devices;
}

void DeviceRegistry::read_environment() {
  if (std::exchange(environment_read_, true)) return;
  const char* const variable = std::getenv("MINDCKPT_DEVICE_PLUGINS");
  std::string_view paths = variable != nullptr ? variable : "";
  while (!paths.empty()) {
    const std::string path(paths.substr(0, paths.find(':')));
    paths.remove_prefix(std::min(paths.size(), path.size() + 1));
    if (path.empty()) continue;
    try {
      load(path);
    } catch (const Error& error) {
      BackendInfo info;
      info.name = path.substr(path.rfind('/') + 1);
      info.origin = path;
      info.unusable = error.what();
      not_loaded_.push_back(std::move(info));
    }
  }
}

void DeviceRegistry::add_known(const mindckpt_device_backend* table, const std::string& origin) {
  for (const auto& known : known_) {
    if (known->table == table) return;
  }
  std::string problem = problem_of(table);
  if (problem.empty()) {
    for (const auto& known : known_) {
      if (std::string_view(known->table->name) == table->name) {
        problem = "the name '" + std::string(table->name) + "' is that of a backend from " +
                  known->origin;
      }
    }
  }
  if (!problem.empty()) {
    throw Error(ErrorKind::kInvalidArgument, "device backend from " + origin + ": " + problem);
  }
  auto known = std::make_unique<Known>();
  known->table = table;
  known->origin = origin;
  known_.push_back(std::move(known));
}

std::string DeviceRegistry::load(const std::string& path) {
  std::string why;
  const auto library = DynamicLibrary::load(path, DynamicLibrary::Symbols::kAtOnce, why);
  if (!library)
    throw Error(ErrorKind::kInvalidArgument, "device backend from " + path + ": " + why);
  const mindckpt_device_entry entry = library->symbol(MINDCKPT_DEVICE_ENTRY);
  if (entry == nullptr) {
    throw Error(ErrorKind::kInvalidArgument,
                "device backend from " + path + ": the library has no " + MINDCKPT_DEVICE_ENTRY);
  }
  const mindckpt_device_backend* const table = entry();
  add_known(table, path);
  return table->name;
}

Backend& DeviceRegistry::backend(Known& known) {
  if (known.backend != nullptr) {
    known.backend->check_process();
    return *known.backend;
  }
  if (!known.unusable.empty()) throw Error(ErrorKind::kUnavailable, known.unusable);
  const pid_t before = process_.load(std::memory_order_relaxed);
  // Before init: a fork while it runs leaves the child a lock that nobody holds.
  if (before == 0) process_.store(process_id(), std::memory_order_relaxed);
  try {
    known.backend = std::make_unique<Backend>(*known.table);
  } catch (const Error& error) {
    process_.store(before, std::memory_order_relaxed);
    known.unusable = error.what();
    throw;
  }
  return *known.backend;
}

Device* DeviceRegistry::find(const void* pointer) {
  // Those in use come first, so that no other driver is initialised for their pointers.
  for (const bool in_use : {true, false}) {
    for (const auto& known : known_) {
      if ((known->backend != nullptr) != in_use || !known->unusable.empty()) continue;
      try {
        backend(*known);
      } catch (const Error&) {
        if (in_use) throw;
        continue;  // it is not usable: none of its pointers can be here
      }
      const int32_t ordinal = known->backend->device_of(pointer);
      if (ordinal >= 0) return &attach(*known, ordinal);
    }
  }
  return nullptr;
}

Device& DeviceRegistry::attach(Known& known, int32_t ordinal) {
  const auto found = known.devices.find(ordinal);
  if (found != known.devices.end()) return *found->second;
  auto device = std::make_unique<Device>(*known.backend, ordinal);
  return *known.devices.emplace(ordinal, std::move(device)).first->second;
}

}  // namespace mindckpt
