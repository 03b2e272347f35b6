/* A backend in full, as small as one can be: the "device" is memory from malloc, a copy has ended
   when copy_async returns. So streams and events have nothing to do, which is correct: what is put
   into a stream ends in order, and an event happens at once. A real backend calls its driver in
   these places. docs/devices.md shows how it is used. */

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device_api.h"

#define PAGE_BYTES ((size_t)4096)
#define DEVICE_BYTES ((uint64_t)1 << 30)

/* Each thread has its own last failure. */
static _Thread_local const char* error = "";

static mindckpt_status fail(mindckpt_status status, const char* why) {
  error = why;
  return status;
}

static mindckpt_status succeed(void) {
  error = "";
  return MINDCKPT_OK;
}

static const char* last_error(void) { return error; }

static mindckpt_status version(char* text, size_t size) {
  snprintf(text, size, "host memory as a device");
  return succeed();
}

static mindckpt_status device_count(int32_t* count) {
  *count = 1;
  return succeed();
}

/* ---- A device that needs no preparation, and is current on every thread. */

static mindckpt_status use_device(int32_t device) {
  return device == 0 ? succeed() : fail(MINDCKPT_ERROR, "there is one device, 0");
}

/* ---- Memory. Which pointers are the device's must be known of pointers into it, too. */

struct allocation {
  struct allocation* next;
  size_t nbytes;
  max_align_t bytes[];
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct allocation* allocations;
static uint64_t used_nbytes;

static mindckpt_status device_alloc(void** memory, size_t nbytes) {
  struct allocation* made = NULL;
  if (nbytes == 0 || nbytes > DEVICE_BYTES) return fail(MINDCKPT_ERROR, "no such size");
  pthread_mutex_lock(&mutex);
  if (nbytes <= DEVICE_BYTES - used_nbytes) made = malloc(sizeof(*made) + nbytes);
  if (made != NULL) {
    made->next = allocations;
    made->nbytes = nbytes;
    allocations = made;
    used_nbytes += nbytes;
    *memory = made->bytes;
  }
  pthread_mutex_unlock(&mutex);
  return made != NULL ? succeed() : fail(MINDCKPT_OUT_OF_MEMORY, "the device's memory is full");
}

static mindckpt_status device_free(void* memory) {
  pthread_mutex_lock(&mutex);
  struct allocation** at = &allocations;
  while (*at != NULL && (void*)(*at)->bytes != memory) at = &(*at)->next;
  struct allocation* const found = *at;
  if (found != NULL) {
    *at = found->next;
    used_nbytes -= found->nbytes;
  }
  pthread_mutex_unlock(&mutex);
  free(found);
  return found != NULL ? succeed() : fail(MINDCKPT_ERROR, "not allocated by device_alloc");
}

static mindckpt_status pointer_info(const void* pointer, mindckpt_pointer_info* info) {
  info->kind = MINDCKPT_POINTER_UNKNOWN;
  info->device = 0;
  pthread_mutex_lock(&mutex);
  for (const struct allocation* at = allocations; at != NULL; at = at->next) {
    if ((uintptr_t)pointer - (uintptr_t)at->bytes < at->nbytes)
      info->kind = MINDCKPT_POINTER_DEVICE;
  }
  pthread_mutex_unlock(&mutex);
  return succeed();
}

static mindckpt_status memory_info(uint64_t* free_nbytes, uint64_t* total_nbytes) {
  pthread_mutex_lock(&mutex);
  *free_nbytes = DEVICE_BYTES - used_nbytes;
  *total_nbytes = DEVICE_BYTES;
  pthread_mutex_unlock(&mutex);
  return succeed();
}

static mindckpt_status host_alloc(void** memory, size_t nbytes) {
  *memory = nbytes > SIZE_MAX - PAGE_BYTES
                ? NULL
                : aligned_alloc(PAGE_BYTES, (nbytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES);
  return *memory != NULL ? succeed() : fail(MINDCKPT_OUT_OF_MEMORY, "no host memory");
}

static mindckpt_status host_free(void* memory) {
  free(memory);
  return succeed();
}

/* ---- Streams and events: there is never anything to wait for. */

static char any_stream;
static char any_event;

static mindckpt_status stream_create(void** stream, int32_t direction) {
  (void)direction;
  *stream = &any_stream;
  return succeed();
}

static mindckpt_status event_create(void** event, uint32_t flags) {
  (void)flags;
  *event = &any_event;
  return succeed();
}

static mindckpt_status done_at_once(void* handle) {
  (void)handle;
  return succeed();
}

static mindckpt_status in_order_already(void* one, void* other) {
  (void)one;
  return done_at_once(other);
}

/* ---- A real backend puts this into the stream, and returns before it has ended. */

static mindckpt_status copy_async(void* to, const void* from, size_t nbytes, int32_t direction,
                                  void* stream) {
  (void)direction;
  (void)stream;
  if (nbytes > 0) memmove(to, from, nbytes);
  return succeed();
}

/* Fields without a line are NULL: shutdown, and the optional functions. */
static const mindckpt_device_backend backend = {
    .struct_size = sizeof(mindckpt_device_backend),
    .abi_major = MINDCKPT_DEVICE_ABI_MAJOR,
    .abi_minor = MINDCKPT_DEVICE_ABI_MINOR,
    .name = "minimal",
    .dlpack_device_type = 0,
    .copy_alignment = 1,
    .init = succeed,
    .last_error = last_error,
    .version = version,
    .device_count = device_count,
    .attach = use_device,
    .detach = use_device,
    .bind_thread = use_device,
    .unbind_thread = use_device,
    .pointer_info = pointer_info,
    .host_alloc = host_alloc,
    .host_free = host_free,
    .device_alloc = device_alloc,
    .device_free = device_free,
    .memory_info = memory_info,
    .stream_create = stream_create,
    .stream_destroy = done_at_once,
    .stream_wait_event = in_order_already,
    .stream_sync = done_at_once,
    .event_create = event_create,
    .event_destroy = done_at_once,
    .event_record = in_order_already,
    .event_query = done_at_once,
    .event_sync = done_at_once,
    .copy_async = copy_async,
};

__attribute__((visibility("default"))) const mindckpt_device_backend* mindckpt_device_backend_v1(
    void) {
  return &backend;
}
