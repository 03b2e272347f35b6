#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/dynamic_library.h"
#include "base/memory.h"
#include "device/ascend_api.h"
#include "device/last_error.h"
#include "device/registry.h"

// Huawei's Ascend processors by AscendCL, in the library that the CANN toolkit brings.
//
// AscendCL is initialised once a process, and a device's default context is shared by all who call
// aclrtSetDevice. This process's training may be among them, so nothing here ever resets a device
// or ends AscendCL unless nobody else had begun with it before.
namespace mindckpt {

namespace {

using namespace ascend;  // NOLINT(google-build-using-namespace): AscendCL's own names

// What the toolkits up to 8.1 need of both addresses of a copy.
constexpr uint32_t kCopyAlignment = 64;

constexpr std::string_view name_of(aclError code) {
  switch (code) {
    case ACL_ERROR_UNINITIALIZE:
      return "not initialised";
    case ACL_ERROR_RT_CONTEXT_NULL:
      return "no context on this thread";
    case ACL_ERROR_RT_ADDR_UNALIGNED:
      return "an address that is not aligned";
    case ACL_ERROR_RT_WAIT_TIMEOUT:
      return "a wait timed out";
    case ACL_ERROR_BAD_ALLOC:
    case ACL_ERROR_RT_MEMORY_ALLOCATION:
      return "out of memory";
    case ACL_ERROR_RT_NO_DEVICE:
      return "no device";
    default:
      return code / 1000 == ACL_ERROR_RT_INTERNAL_ERROR / 1000 ? "the driver failed" : "";
  }
}

// ---- The library's functions

class Acl : public Functions {
 public:
  explicit Acl(DynamicLibrary found) : library(found) {
#define MINDCKPT_FIND(result, name, parameters) name = find(#name);
    MINDCKPT_ASCEND_FUNCTIONS(MINDCKPT_FIND)
#undef MINDCKPT_FIND
#define MINDCKPT_TRY(result, name, parameters) name = library.symbol(#name);
    MINDCKPT_ASCEND_WORDS(MINDCKPT_TRY)
    MINDCKPT_ASCEND_POINTERS(MINDCKPT_TRY)
#undef MINDCKPT_TRY
  }

  DynamicLibrary library;
  const char* missing = nullptr;  // the first function that the library lacks

 private:
  DynamicLibrary::Symbol find(const char* name) noexcept {
    const DynamicLibrary::Symbol found = library.symbol(name);
    if (found.address == nullptr && missing == nullptr) missing = name;
    return found;
  }
};

// ---- What the backend keeps. Never destroyed: others' destructors may still call.

struct Attached {
  std::atomic<void*> context{nullptr};  // the device's default one; null: not attached
  int times = 0;
};

struct State {
  std::mutex mutex;  // of init, shutdown, attach and detach; all others read what these left
  int users = 0;     // registries that initialised the backend, and did not shut it down
  std::unique_ptr<Acl> acl;
  bool owner = false;  // nobody had called aclInit before
  std::unique_ptr<Attached[]> devices;
  int32_t num_devices = 0;
};

State& state() {
  static State* const only = new State;
  return *only;
}
const Acl& acl() { return *state().acl; }

thread_local LastError error;

mindckpt_status refuse(mindckpt_status status, std::initializer_list<std::string_view> why) {
  error.set(why);
  return status;
}

// "aclrtMalloc: error 207001 (out of memory): " and the first line of what AscendCL says itself.
void explain(const Acl& of, aclError code, std::string_view function) {
  char number[24];
  std::snprintf(number, sizeof(number), ": error %d", code);
  const std::string_view name = name_of(code);
  const char* const words = of.aclGetRecentErrMsg != nullptr ? of.aclGetRecentErrMsg() : nullptr;
  std::string_view text = words != nullptr ? words : "";
  text = text.substr(0, text.find('\n'));
  error.set({function, number, name.empty() ? "" : " (", name, name.empty() ? "" : ")",
             text.empty() ? "" : ": ", text});
}

mindckpt_status status_of(aclError code, std::string_view function) {
  if (code == ACL_SUCCESS) {
    error.clear();
    return MINDCKPT_OK;
  }
  explain(acl(), code, function);
  const bool no_memory = code == ACL_ERROR_RT_MEMORY_ALLOCATION || code == ACL_ERROR_BAD_ALLOC;
  return no_memory ? MINDCKPT_OUT_OF_MEMORY : MINDCKPT_ERROR;
}

// ---- Once a process

// A process has one AscendCL: what a framework loaded is what counts, wherever it lies. Else by
// name, and where the toolkit's set_env.sh says it is. Empty, and why, when there is none.
std::unique_ptr<Acl> find_library(std::string& why) {
  constexpr std::array<const char*, 2> kNames = {"libacl_rt.so", "libascendcl.so"};
  const auto complete = [&why](const std::optional<DynamicLibrary>& library,
                               const std::string& name) -> std::unique_ptr<Acl> {
    if (!library) return nullptr;
    auto found = std::make_unique<Acl>(*library);
    if (found->missing == nullptr) return found;
    why = name + " lacks " + found->missing;
    return nullptr;
  };
  for (const char* name : kNames) {
    if (auto found = complete(DynamicLibrary::find_loaded(name), name)) return found;
  }
  std::vector<std::string> paths(kNames.begin(), kNames.end());
  for (const char* variable : {"ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"}) {
    const char* const folder = std::getenv(variable);
    if (folder == nullptr || folder[0] == '\0') continue;
    for (const char* name : kNames) paths.push_back(std::string(folder) + "/lib64/" + name);
  }
  for (const std::string& path : paths) {
    std::string reason;
    const auto library = DynamicLibrary::load(path, DynamicLibrary::Symbols::kWhenCalled, reason);
    if (auto found = complete(library, path)) return found;
    // A library that is there and can't be used says more than one that is not.
    if (!library && (why.empty() || reason.find("No such file") == std::string::npos)) {
      why = "no AscendCL: " + reason;
    }
  }
  return nullptr;
}

mindckpt_status start(State& all) {
  std::string why;
  auto found = find_library(why);
  if (found == nullptr) return refuse(MINDCKPT_UNAVAILABLE, {why});
  const auto unavailable = [&found](aclError code, std::string_view function) {
    explain(*found, code, function);
    return MINDCKPT_UNAVAILABLE;
  };
  const aclError initialised = found->aclInit(nullptr);
  if (initialised != ACL_SUCCESS && initialised != ACL_ERROR_REPEAT_INITIALIZE) {
    return unavailable(initialised, "aclInit");
  }
  const bool owner = initialised == ACL_SUCCESS;
  uint32_t count = 0;
  const aclError counted = found->aclrtGetDeviceCount(&count);
  if (counted != ACL_SUCCESS || count == 0) {
    const auto status = counted != ACL_SUCCESS
                            ? unavailable(counted, "aclrtGetDeviceCount")
                            : refuse(MINDCKPT_UNAVAILABLE, {"the driver sees no Ascend device"});
    if (owner) found->aclFinalize();
    return status;
  }
  all.devices = std::make_unique<Attached[]>(count);
  all.num_devices = static_cast<int32_t>(count);
  all.owner = owner;
  all.acl = std::move(found);
  error.clear();
  return MINDCKPT_OK;
}

mindckpt_status init() {
  State& all = state();
  const std::lock_guard lock(all.mutex);
  try {
    if (all.users == 0) {
      if (const mindckpt_status status = start(all)) return status;
    }
  } catch (const std::bad_alloc&) {
    return refuse(MINDCKPT_OUT_OF_MEMORY, {"no host memory"});
  }
  ++all.users;
  return MINDCKPT_OK;
}

void shutdown() {
  State& all = state();
  const std::lock_guard lock(all.mutex);
  if (--all.users == 0 && all.owner) acl().aclFinalize();
}

const char* last_error() { return error.text; }

mindckpt_status version(char* text, size_t size) {
  error.clear();
  int32_t major = 0;
  int32_t minor = 0;
  int32_t patch = 0;
  if (acl().aclrtGetVersion == nullptr ||
      acl().aclrtGetVersion(&major, &minor, &patch) != ACL_SUCCESS) {
    std::snprintf(text, size, "AscendCL");
  } else {
    std::snprintf(text, size, "AscendCL %d.%d.%d", major, minor, patch);
  }
  return MINDCKPT_OK;
}

mindckpt_status device_count(int32_t* count) {
  uint32_t found = 0;
  const auto status = status_of(acl().aclrtGetDeviceCount(&found), "aclrtGetDeviceCount");
  *count = static_cast<int32_t>(found);
  return status;
}

// ---- Once a device

Attached* find_device(int32_t device) {
  const State& all = state();
  if (device >= 0 && device < all.num_devices) return &all.devices[static_cast<size_t>(device)];
  refuse(MINDCKPT_ERROR, {"no such device"});
  return nullptr;
}

// The context of this thread; null, which is no failure, where it has none.
mindckpt_status current_context(void** context) {
  *context = nullptr;
  const aclError code = acl().aclrtGetCurrentContext(context);
  if (code != ACL_ERROR_RT_CONTEXT_NULL) return status_of(code, "aclrtGetCurrentContext");
  *context = nullptr;
  return MINDCKPT_OK;
}

// aclrtSetDevice is called this once, for the device's default context to be there; threads then
// take that. It is counted, so as long as it is not taken back, no reset by others ends the
// context.
mindckpt_status attach(int32_t device) {
  Attached* const attached = find_device(device);
  if (attached == nullptr) return MINDCKPT_ERROR;
  const std::lock_guard lock(state().mutex);
  void* before = nullptr;
  if (const auto failed = current_context(&before)) return failed;
  if (const auto failed = status_of(acl().aclrtSetDevice(device), "aclrtSetDevice")) return failed;
  void* context = nullptr;
  auto status = status_of(acl().aclrtGetCurrentContext(&context), "aclrtGetCurrentContext");
  if (before != nullptr) {
    const aclError restored = acl().aclrtSetCurrentContext(before);
    if (status == MINDCKPT_OK) status = status_of(restored, "aclrtSetCurrentContext");
  }
  if (status != MINDCKPT_OK) {
    // This takes back what was counted a moment ago: whoever else uses the device keeps it.
    acl().aclrtResetDevice(device);
    return status;
  }
  attached->context = context;
  ++attached->times;
  return MINDCKPT_OK;
}

// Where others had begun with AscendCL, the device stays set: that costs nothing that the process's
// end does not give back, while a reset too many would take the device from under the training.
mindckpt_status detach(int32_t device) {
  Attached* const attached = find_device(device);
  if (attached == nullptr) return MINDCKPT_ERROR;
  const std::lock_guard lock(state().mutex);
  if (attached->times == 0) return refuse(MINDCKPT_ERROR, {"the device is not attached"});
  if (--attached->times == 0) attached->context = nullptr;
  if (!state().owner) return MINDCKPT_OK;
  return status_of(acl().aclrtResetDevice(device), "aclrtResetDevice");
}

// ---- Once a thread. AscendCL keeps one context to a thread, so what was there before is kept
// here.

struct Bindings {
  static constexpr int kMost = 64;
  std::array<void*, kMost> before;
  int count;
};
thread_local Bindings bindings;

mindckpt_status bind_thread(int32_t device) {
  const Attached* const attached = find_device(device);
  if (attached == nullptr) return MINDCKPT_ERROR;
  void* const context = attached->context;
  if (context == nullptr) return refuse(MINDCKPT_ERROR, {"the device is not attached"});
  if (bindings.count == Bindings::kMost) return refuse(MINDCKPT_ERROR, {"nested too deeply"});
  void* before = nullptr;
  if (const auto failed = current_context(&before)) return failed;
  if (const auto failed =
          status_of(acl().aclrtSetCurrentContext(context), "aclrtSetCurrentContext")) {
    return failed;
  }
  bindings.before[static_cast<size_t>(bindings.count++)] = before;
  return MINDCKPT_OK;
}

mindckpt_status unbind_thread(int32_t) {
  if (bindings.count == 0) return refuse(MINDCKPT_ERROR, {"the thread is not bound"});
  void* const before = bindings.before[static_cast<size_t>(--bindings.count)];
  // A thread that had no context can't be left without one again, and is not worse off.
  if (before == nullptr) return MINDCKPT_OK;
  return status_of(acl().aclrtSetCurrentContext(before), "aclrtSetCurrentContext");
}

mindckpt_status pointer_info(const void* pointer, mindckpt_pointer_info* info) {
  *info = {MINDCKPT_POINTER_UNKNOWN, 0};
  error.clear();
  if (acl().aclrtPointerGetAttributes == nullptr || pointer == nullptr) return MINDCKPT_OK;
  aclrtPtrAttributes attributes{};
  aclError code = acl().aclrtPointerGetAttributes(pointer, &attributes);
  if (code == ACL_ERROR_RT_CONTEXT_NULL) {
    // Any context will do, where AscendCL wants one at all.
    const State& all = state();
    for (int32_t device = 0; device < all.num_devices; ++device) {
      void* const context = all.devices[static_cast<size_t>(device)].context;
      if (context == nullptr || acl().aclrtSetCurrentContext(context) != ACL_SUCCESS) continue;
      code = acl().aclrtPointerGetAttributes(pointer, &attributes);
      break;
    }
  }
  if (const auto failed = status_of(code, "aclrtPointerGetAttributes")) return failed;
  if (attributes.location.type == ACL_MEM_LOCATION_TYPE_DEVICE) {
    *info = {MINDCKPT_POINTER_DEVICE, static_cast<int32_t>(attributes.location.id)};
  } else if (attributes.location.type == ACL_MEM_LOCATION_TYPE_HOST) {
    info->kind = MINDCKPT_POINTER_HOST;
  }
  return MINDCKPT_OK;
}

// ---- Memory

// AscendCL does not say how its host memory is aligned: a page more is taken, and the address that
// it gave is kept just before the page where ours begins.
mindckpt_status host_alloc(void** memory, size_t nbytes) {
  constexpr size_t kMore = kPageBytes + sizeof(void*);
  if (nbytes > std::numeric_limits<size_t>::max() - kMore) {
    return refuse(MINDCKPT_OUT_OF_MEMORY, {"no machine has that much"});
  }
  void* given = nullptr;
  if (const auto failed =
          status_of(acl().aclrtMallocHost(&given, nbytes + kMore), "aclrtMallocHost")) {
    return failed;
  }
  const auto address = reinterpret_cast<uintptr_t>(given);
  const uintptr_t begin = (address + kMore - 1) / kPageBytes * kPageBytes;
  auto* const data = static_cast<std::byte*>(given) + (begin - address);
  std::memcpy(data - sizeof(given), &given, sizeof(given));
  *memory = data;
  return MINDCKPT_OK;
}

mindckpt_status host_free(void* memory) {
  void* given = nullptr;
  std::memcpy(&given, static_cast<std::byte*>(memory) - sizeof(given), sizeof(given));
  return status_of(acl().aclrtFreeHost(given), "aclrtFreeHost");
}

mindckpt_status device_alloc(void** memory, size_t nbytes) {
  return status_of(acl().aclrtMalloc(memory, nbytes, ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc");
}

mindckpt_status device_free(void* memory) {
  return status_of(acl().aclrtFree(memory), "aclrtFree");
}

mindckpt_status memory_info(uint64_t* free_nbytes, uint64_t* total_nbytes) {
  size_t free = 0;
  size_t total = 0;
  // Devices have one kind or the other.
  aclError code = acl().aclrtGetMemInfo(ACL_HBM_MEM, &free, &total);
  if (code != ACL_SUCCESS || total == 0) {
    size_t ddr_free = 0;
    size_t ddr_total = 0;
    if (acl().aclrtGetMemInfo(ACL_DDR_MEM, &ddr_free, &ddr_total) == ACL_SUCCESS && ddr_total > 0) {
      code = ACL_SUCCESS;
      free = ddr_free;
      total = ddr_total;
    }
  }
  *free_nbytes = free;
  *total_nbytes = total;
  return status_of(code, "aclrtGetMemInfo");
}

mindckpt_status device_sync() {
  return status_of(acl().aclrtSynchronizeDevice(), "aclrtSynchronizeDevice");
}

// ---- Streams

mindckpt_status stream_create(void** stream, int32_t) {
  return status_of(acl().aclrtCreateStream(stream), "aclrtCreateStream");
}

mindckpt_status stream_destroy(void* stream) {
  return status_of(acl().aclrtDestroyStream(stream), "aclrtDestroyStream");
}

mindckpt_status stream_sync(void* stream) {
  return status_of(acl().aclrtSynchronizeStream(stream), "aclrtSynchronizeStream");
}

// ---- Events. One that was never recorded holds nobody up in our table, and forever in AscendCL.

struct Event {
  void* handle = nullptr;
  std::atomic<bool> recorded{false};
};

mindckpt_status event_create(void** event, uint32_t) {
  std::unique_ptr<Event> created(new (std::nothrow) Event);
  if (created == nullptr) return refuse(MINDCKPT_OUT_OF_MEMORY, {"no host memory"});
  if (const auto failed =
          status_of(acl().aclrtCreateEventExWithFlag(&created->handle, ACL_EVENT_SYNC),
                    "aclrtCreateEventExWithFlag")) {
    return failed;
  }
  *event = created.release();
  return MINDCKPT_OK;
}

mindckpt_status event_destroy(void* event) {
  const std::unique_ptr<Event> destroyed(static_cast<Event*>(event));
  return status_of(acl().aclrtDestroyEvent(destroyed->handle), "aclrtDestroyEvent");
}

mindckpt_status event_record(void* event, void* stream) {
  auto* const own = static_cast<Event*>(event);
  const auto status = status_of(acl().aclrtRecordEvent(own->handle, stream), "aclrtRecordEvent");
  if (status == MINDCKPT_OK) own->recorded = true;
  return status;
}

mindckpt_status stream_wait_event(void* stream, void* event) {
  const auto* const own = static_cast<const Event*>(event);
  error.clear();
  if (!own->recorded) return MINDCKPT_OK;
  return status_of(acl().aclrtStreamWaitEvent(stream, own->handle), "aclrtStreamWaitEvent");
}

mindckpt_status event_query(void* event) {
  const auto* const own = static_cast<const Event*>(event);
  error.clear();
  if (!own->recorded) return MINDCKPT_OK;
  aclrtEventRecordedStatus status = 0;
  if (const auto failed =
          status_of(acl().aclrtQueryEventStatus(own->handle, &status), "aclrtQueryEventStatus")) {
    return failed;
  }
  return status == ACL_EVENT_RECORDED_STATUS_COMPLETE ? MINDCKPT_OK : MINDCKPT_NOT_READY;
}

mindckpt_status event_sync(void* event) {
  const auto* const own = static_cast<const Event*>(event);
  error.clear();
  if (!own->recorded) return MINDCKPT_OK;
  return status_of(acl().aclrtSynchronizeEvent(own->handle), "aclrtSynchronizeEvent");
}

// ---- Copies

mindckpt_status copy_async(void* to, const void* from, size_t nbytes, int32_t direction,
                           void* stream) {
  aclrtMemcpyKind kind = 0;
  switch (direction) {
    case MINDCKPT_DEVICE_TO_HOST:
      kind = ACL_MEMCPY_DEVICE_TO_HOST;
      break;
    case MINDCKPT_HOST_TO_DEVICE:
      kind = ACL_MEMCPY_HOST_TO_DEVICE;
      break;
    case MINDCKPT_DEVICE_TO_DEVICE:
      kind = ACL_MEMCPY_DEVICE_TO_DEVICE;
      break;
    default:
      return refuse(MINDCKPT_ERROR, {"no such direction"});
  }
  return status_of(acl().aclrtMemcpyAsync(to, nbytes, from, nbytes, kind, stream),
                   "aclrtMemcpyAsync");
}

constexpr mindckpt_device_backend kBackend = {
    .struct_size = sizeof(mindckpt_device_backend),
    .abi_major = MINDCKPT_DEVICE_ABI_MAJOR,
    .abi_minor = MINDCKPT_DEVICE_ABI_MINOR,
    .name = "ascend",
    .dlpack_device_type = 12,  // kDLExtDev, as torch_npu has it
    .copy_alignment = kCopyAlignment,
    .init = init,
    .shutdown = shutdown,
    .last_error = last_error,
    .version = version,
    .device_count = device_count,
    .attach = attach,
    .detach = detach,
    .bind_thread = bind_thread,
    .unbind_thread = unbind_thread,
    .pointer_info = pointer_info,
    .host_alloc = host_alloc,
    .host_free = host_free,
    .host_register = nullptr,
    .host_unregister = nullptr,
    .device_alloc = device_alloc,
    .device_free = device_free,
    .memory_info = memory_info,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_wait_event = stream_wait_event,
    .stream_sync = stream_sync,
    .stream_is_capturing = nullptr,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_query = event_query,
    .event_sync = event_sync,
    .copy_async = copy_async,
    .copy_batch_async = nullptr,
    .device_sync = device_sync,
};

}  // namespace

const mindckpt_device_backend* ascend_backend() { return &kBackend; }

}  // namespace mindckpt
