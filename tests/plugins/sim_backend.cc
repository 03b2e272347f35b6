// libmindckpt_sim.so: an out-of-tree backend, named "sim", over simulated devices. It has all
// optional functions, and knows of mindckpt what any stranger's would: device_api.h. It holds its
// caller to the rules there: bound threads, the bound device's streams, pinned and page-aligned
// host memory.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "device_api.h"
#include "faults.h"
#include "simulation.h"

using stand_in::Copy;
using stand_in::Direction;
using stand_in::Owner;
using stand_in::PointerInfo;
using stand_in::Result;

namespace {

constexpr size_t kPageBytes = 4096;

// By the names of the table's fields.
constexpr stand_in::Function kFunctions[] = {
    {"init", MINDCKPT_UNAVAILABLE},
    {"version", MINDCKPT_ERROR},
    {"device_count", MINDCKPT_ERROR},
    {"attach", MINDCKPT_ERROR},
    {"detach", MINDCKPT_ERROR},
    {"bind_thread", MINDCKPT_ERROR},
    {"unbind_thread", MINDCKPT_ERROR},
    {"pointer_info", MINDCKPT_ERROR},
    {"host_alloc", MINDCKPT_OUT_OF_MEMORY},
    {"host_free", MINDCKPT_ERROR},
    {"host_register", MINDCKPT_OUT_OF_MEMORY},
    {"host_unregister", MINDCKPT_ERROR},
    {"device_alloc", MINDCKPT_OUT_OF_MEMORY},
    {"device_free", MINDCKPT_ERROR},
    {"memory_info", MINDCKPT_ERROR},
    {"stream_create", MINDCKPT_ERROR},
    {"stream_destroy", MINDCKPT_ERROR},
    {"stream_wait_event", MINDCKPT_ERROR},
    {"stream_sync", MINDCKPT_ERROR},
    {"stream_is_capturing", MINDCKPT_ERROR},
    {"event_create", MINDCKPT_ERROR},
    {"event_destroy", MINDCKPT_ERROR},
    {"event_record", MINDCKPT_ERROR},
    {"event_query", MINDCKPT_ERROR},
    {"event_sync", MINDCKPT_ERROR},
    {"copy_async", MINDCKPT_ERROR},
    {"copy_batch_async", MINDCKPT_ERROR},
    {"device_sync", MINDCKPT_ERROR},
};

std::atomic<bool> initialised{false};
thread_local std::vector<int32_t> bound;  // the innermost at the end
thread_local std::string error;

mindckpt_status fail(mindckpt_status status) {
  error = stand_in::explanation();
  return status;
}

mindckpt_status refuse(const char* reason) {
  stand_in::explain(reason);
  return fail(MINDCKPT_ERROR);
}

mindckpt_status finish(Result result) {
  if (result == Result::kOk) return MINDCKPT_OK;
  return fail(result == Result::kOutOfMemory ? MINDCKPT_OUT_OF_MEMORY : MINDCKPT_ERROR);
}

enum class Needs { kInit, kBound };

// What every function begins with: whether it fails before it does anything.
mindckpt_status enter(const char* function, Needs needs) {
  stand_in::read_environment();
  error.clear();
  if (const int status = stand_in::count_call(function)) return fail(status);
  if (stand_in::is_forked_child()) return fail(MINDCKPT_ERROR);
  if (!initialised) return refuse("init was not called");
  if (needs == Needs::kBound && bound.empty()) return refuse("the thread is not bound to a device");
  return MINDCKPT_OK;
}

int32_t device() { return bound.back(); }

mindckpt_status check_stream(void* stream) {
  int32_t of = 0;
  const Result found = stand_in::device_of_stream(stream, device(), &of);
  if (found != Result::kOk) return finish(found);
  return of == device() ? MINDCKPT_OK : refuse("a stream of another device than the bound one");
}

bool is_page_aligned(const void* memory) {
  return reinterpret_cast<uintptr_t>(memory) % kPageBytes == 0;
}

// ---- Once a process

mindckpt_status init() {
  stand_in::read_environment();
  error.clear();
  if (const int status = stand_in::count_call(__func__)) return fail(status);
  if (const int status = stand_in::init_error()) {
    stand_in::explain("init fails by the environment");
    return fail(status);
  }
  if (stand_in::is_forked_child()) return fail(MINDCKPT_UNAVAILABLE);
  stand_in::enter_process();
  initialised = true;
  return MINDCKPT_OK;
}

const char* last_error() { return error.c_str(); }

mindckpt_status version(char* text, size_t size) {
  if (const mindckpt_status refused = enter(__func__, Needs::kInit)) return refused;
  std::snprintf(text, size, "simulated devices");
  return MINDCKPT_OK;
}

mindckpt_status device_count(int32_t* count) {
  if (const mindckpt_status refused = enter(__func__, Needs::kInit)) return refused;
  *count = stand_in::device_count();
  return MINDCKPT_OK;
}

// ---- Once a device, once a thread

mindckpt_status attach(int32_t index) {
  if (const mindckpt_status refused = enter(__func__, Needs::kInit)) return refused;
  if (index < 0 || index >= stand_in::device_count()) return refuse("no such device");
  stand_in::add_context(index, 1);
  return MINDCKPT_OK;
}

mindckpt_status detach(int32_t index) {
  if (const mindckpt_status refused = enter(__func__, Needs::kInit)) return refused;
  if (index < 0 || index >= stand_in::kMostDevices || stand_in::contexts(index) == 0) {
    return refuse("the device is not attached");
  }
  stand_in::add_context(index, -1);
  return MINDCKPT_OK;
}

mindckpt_status bind_thread(int32_t index) {
  if (const mindckpt_status refused = enter(__func__, Needs::kInit)) return refused;
  if (index < 0 || index >= stand_in::kMostDevices || stand_in::contexts(index) == 0) {
    return refuse("the device is not attached");
  }
  bound.push_back(index);
  return MINDCKPT_OK;
}

mindckpt_status unbind_thread(int32_t index) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  if (device() != index) return refuse("the thread was bound to another device last");
  bound.pop_back();
  return MINDCKPT_OK;
}

mindckpt_status pointer_info(const void* pointer, mindckpt_pointer_info* info) {
  if (const mindckpt_status refused = enter(__func__, Needs::kInit)) return refused;
  const PointerInfo found = stand_in::pointer_info(pointer);
  switch (found.kind) {
    case PointerInfo::Kind::kUnknown:
      *info = {MINDCKPT_POINTER_UNKNOWN, 0};
      break;
    case PointerInfo::Kind::kHost:
      *info = {MINDCKPT_POINTER_HOST, 0};
      break;
    case PointerInfo::Kind::kDevice:
      *info = {MINDCKPT_POINTER_DEVICE, found.device};
      break;
  }
  return MINDCKPT_OK;
}

// ---- Memory

mindckpt_status host_alloc(void** memory, size_t nbytes) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  return finish(stand_in::allocate_host(device(), nbytes, 0, memory));
}

mindckpt_status host_free(void* memory) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  return finish(stand_in::release_host(memory));
}

mindckpt_status host_register(void* memory, size_t nbytes) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  if (!is_page_aligned(memory) || nbytes % kPageBytes != 0) return refuse("not whole pages");
  return finish(stand_in::register_host(device(), memory, nbytes));
}

mindckpt_status host_unregister(void* memory) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  return finish(stand_in::unregister_host(memory));
}

mindckpt_status device_alloc(void** memory, size_t nbytes) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  return finish(stand_in::allocate(device(), nbytes, Owner::kEngine, memory));
}

mindckpt_status device_free(void* memory) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  return finish(stand_in::release(memory, Owner::kEngine));
}

mindckpt_status memory_info(uint64_t* free_nbytes, uint64_t* total_nbytes) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  return finish(stand_in::memory_info(device(), free_nbytes, total_nbytes));
}

// ---- Streams

mindckpt_status stream_create(void** stream, int32_t direction) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  if (direction < 0 || direction >= stand_in::kNumDirections) return refuse("no such direction");
  return finish(stand_in::create_stream(device(), true, Owner::kEngine, stream));
}

mindckpt_status stream_destroy(void* stream) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  if (const mindckpt_status refused = check_stream(stream)) return refused;
  return finish(stand_in::destroy_stream(stream, Owner::kEngine));
}

mindckpt_status stream_wait_event(void* stream, void* event) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  if (const mindckpt_status refused = check_stream(stream)) return refused;
  return finish(stand_in::wait_for_event(device(), stream, event));
}

mindckpt_status stream_sync(void* stream) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  if (const mindckpt_status refused = check_stream(stream)) return refused;
  return finish(stand_in::sync_stream(device(), stream));
}

mindckpt_status stream_is_capturing(void* stream, int32_t* capturing) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  if (const mindckpt_status refused = check_stream(stream)) return refused;
  bool is = false;
  const Result result = stand_in::is_capturing(device(), stream, &is);
  if (result == Result::kOk) *capturing = is ? 1 : 0;
  return finish(result);
}

// ---- Events

mindckpt_status event_create(void** event, uint32_t flags) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  if (flags > MINDCKPT_EVENT_HOST) return refuse("unknown flags");
  return finish(stand_in::create_event(device(), event));
}

mindckpt_status event_destroy(void* event) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  return finish(stand_in::destroy_event(event));
}

mindckpt_status event_record(void* event, void* stream) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  if (const mindckpt_status refused = check_stream(stream)) return refused;
  return finish(stand_in::record_event(device(), event, stream));
}

mindckpt_status event_query(void* event) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  const Result result = stand_in::query_event(event, Result::kOk);
  return result == Result::kNotReady ? static_cast<mindckpt_status>(MINDCKPT_NOT_READY)
                                     : finish(result);
}

mindckpt_status event_sync(void* event) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  return finish(stand_in::sync_event(event));
}

// ---- Copies

mindckpt_status put(const std::vector<Copy>& copies, int32_t direction, void* stream) {
  if (const mindckpt_status refused = check_stream(stream)) return refused;
  return finish(stand_in::put_copies(device(), stream, copies, static_cast<Direction>(direction)));
}

mindckpt_status copy_async(void* to, const void* from, size_t nbytes, int32_t direction,
                           void* stream) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  return put({{to, from, nbytes}}, direction, stream);
}

mindckpt_status copy_batch_async(void* const* to, const void* const* from, const size_t* nbytes,
                                 size_t count, int32_t direction, void* stream) {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  std::vector<Copy> copies;
  for (size_t i = 0; i < count; ++i) copies.push_back({to[i], from[i], nbytes[i]});
  return put(copies, direction, stream);
}

mindckpt_status device_sync() {
  if (const mindckpt_status refused = enter(__func__, Needs::kBound)) return refused;
  return finish(stand_in::sync_device(device()));
}

constexpr mindckpt_device_backend kBackend = {
    .struct_size = sizeof(mindckpt_device_backend),
    .abi_major = MINDCKPT_DEVICE_ABI_MAJOR,
    .abi_minor = MINDCKPT_DEVICE_ABI_MINOR,
    .name = "sim",
    .dlpack_device_type = 0,
    .copy_alignment = 1,
    .init = init,
    .shutdown = nullptr,
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
    .host_register = host_register,
    .host_unregister = host_unregister,
    .device_alloc = device_alloc,
    .device_free = device_free,
    .memory_info = memory_info,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_wait_event = stream_wait_event,
    .stream_sync = stream_sync,
    .stream_is_capturing = stream_is_capturing,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_query = event_query,
    .event_sync = event_sync,
    .copy_async = copy_async,
    .copy_batch_async = copy_batch_async,
    .device_sync = device_sync,
};

}  // namespace

std::span<const stand_in::Function> stand_in::functions() { return kFunctions; }

extern "C" __attribute__((visibility("default"))) const mindckpt_device_backend*
mindckpt_device_backend_v1() {
  return &kBackend;
}
