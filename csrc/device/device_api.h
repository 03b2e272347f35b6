/* How mindckpt reaches a device's memory: the table of functions that a backend fills.

   This header is the whole specification; it needs nothing else of mindckpt, and it is C. The
   built-in backends (CUDA, Ascend) fill the same table. docs/devices.md shows a small complete
   backend, and tests/plugins builds one.

   An out-of-tree backend is either

   - a shared library that exports

         const mindckpt_device_backend* mindckpt_device_backend_v1(void);

     named in the environment variable MINDCKPT_DEVICE_PLUGINS (paths, separated by ':'), or loaded
     by mindckpt.load_device_plugin(path); or
   - a Python package with an entry point in the group "mindckpt.devices" that is a function which
     returns a PyCapsule named "mindckpt_device_backend_v1" around the table.

   Rules for every function:

   - It returns a mindckpt_status; anything but MINDCKPT_OK is a failure, except that event_query
     may return MINDCKPT_NOT_READY. After a failure last_error() says why, in the calling thread.
   - It may be called from any thread, and from several at once. Those below "Bound" are called on a
     thread between bind_thread(device) and unbind_thread(device), and concern that device.
   - Optional functions may be NULL; all others must not be.
   - No function may call Python.
   - Streams may be the caller's own handles, made by the framework that owns the tensors (a
     CUstream, an aclrtStream), or made by stream_create. Events are always made by event_create.

   The table lives until the process ends. New functions are only ever added at its end: a backend
   sets struct_size to what it was compiled with, and what lies beyond counts as NULL. */

#ifndef MINDCKPT_DEVICE_API_H_
#define MINDCKPT_DEVICE_API_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MINDCKPT_DEVICE_ABI_MAJOR 1 /* another one: not loaded */
#define MINDCKPT_DEVICE_ABI_MINOR 1 /* a higher one has more functions at its end */
#define MINDCKPT_DEVICE_ENTRY "mindckpt_device_backend_v1"

typedef int32_t mindckpt_status;
enum {
  MINDCKPT_OK = 0,
  MINDCKPT_NOT_READY = 1,     /* event_query: the event has not happened yet */
  MINDCKPT_ERROR = 2,         /* whatever last_error() says */
  MINDCKPT_OUT_OF_MEMORY = 3, /* an allocation or registration did not find the memory */
  MINDCKPT_UNAVAILABLE = 4    /* init: no driver, or no device, on this machine */
};

enum {                               /* mindckpt_pointer_info.kind */
       MINDCKPT_POINTER_UNKNOWN = 0, /* not this backend's: ordinary host memory, or another's */
       MINDCKPT_POINTER_HOST = 1,    /* host memory that the backend knows: pinned, registered */
       MINDCKPT_POINTER_DEVICE = 2   /* memory of `device`, managed memory too */
};

typedef struct mindckpt_pointer_info {
  int32_t kind;
  int32_t device; /* for MINDCKPT_POINTER_DEVICE */
} mindckpt_pointer_info;

enum { /* direction of a copy, and what a stream is for */
       MINDCKPT_DEVICE_TO_HOST = 0,
       MINDCKPT_HOST_TO_DEVICE = 1,
       MINDCKPT_DEVICE_TO_DEVICE = 2
};

enum {                            /* flags of event_create */
       MINDCKPT_EVENT_STREAM = 0, /* streams wait for it */
       MINDCKPT_EVENT_HOST = 1    /* threads wait for it, and should sleep meanwhile */
};

typedef struct mindckpt_device_backend {
  uint32_t struct_size; /* sizeof(mindckpt_device_backend) where the backend was compiled */
  uint16_t abi_major;
  uint16_t abi_minor;

  /* Lower-case letters and digits, as in "cuda": its devices are "cuda:0", "cuda:1", ... */
  const char* name;
  /* DLDeviceType of its memory (2: CUDA, 12: extension device), by which DLPack tensors are known
     to be its own. 0: none, tensors are told by pointer_info alone. */
  int32_t dlpack_device_type;
  /* Both addresses of a copy must be multiples of this power of two, at most 256; 1 for any.
     Lengths are free. */
  uint32_t copy_alignment;

  /* ---- Once a process */

  /* Finds the driver. Called once, before everything else but last_error(), when a device of this
     backend is first asked for; after a failure never again. MINDCKPT_UNAVAILABLE where the machine
     has none. */
  mindckpt_status (*init)(void);
  /* When the process ends; everything has been given back. Optional. */
  void (*shutdown)(void);
  /* Why the last call of this thread failed, one line; "" where none did. Valid until the thread's
     next call. */
  const char* (*last_error)(void);
  /* Writes, as a string of at most `size` bytes with its NUL, what is used: "CUDA driver 12.8". */
  mindckpt_status (*version)(char* text, size_t size);
  mindckpt_status (*device_count)(int32_t* count);

  /* ---- Once a device */

  /* Makes a device ready for bind_thread, and detach undoes it. */
  mindckpt_status (*attach)(int32_t device);
  mindckpt_status (*detach)(int32_t device);

  /* ---- Once a thread: may nest; each bind_thread has its unbind_thread, which makes current again
     what was current before. */

  mindckpt_status (*bind_thread)(int32_t device);
  mindckpt_status (*unbind_thread)(int32_t device);

  /* Where a pointer points. Needs no bound thread. A pointer that the backend does not know is no
     failure. */
  mindckpt_status (*pointer_info)(const void* pointer, mindckpt_pointer_info* info);

  /* ==== Bound */

  /* Page-aligned host memory that copies reach at full speed ("pinned"), from all devices of the
     backend. */
  mindckpt_status (*host_alloc)(void** memory, size_t nbytes);
  mindckpt_status (*host_free)(void* memory);
  /* The same for page-aligned memory that is there already, in whole pages. Optional, both or none;
     preferred over host_alloc where present. */
  mindckpt_status (*host_register)(void* memory, size_t nbytes);
  mindckpt_status (*host_unregister)(void* memory);

  mindckpt_status (*device_alloc)(void** memory, size_t nbytes);
  mindckpt_status (*device_free)(void* memory);
  /* Bytes of the device's memory that are free, and in all. */
  mindckpt_status (*memory_info)(uint64_t* free_nbytes, uint64_t* total_nbytes);

  /* A stream that runs beside all others, for copies of one direction. */
  mindckpt_status (*stream_create)(void** stream, int32_t direction);
  mindckpt_status (*stream_destroy)(void* stream);
  /* What is put into the stream from now on starts after the event; the caller does not wait. An
     event that was never recorded does not hold it up. */
  mindckpt_status (*stream_wait_event)(void* stream, void* event);
  /* Returns when all that was put into the stream has ended, or failed. */
  mindckpt_status (*stream_sync)(void* stream);
  /* Whether the stream is being captured into a graph, where nothing of ours may go. Optional. */
  mindckpt_status (*stream_is_capturing)(void* stream, int32_t* capturing);

  mindckpt_status (*event_create)(void** event, uint32_t flags);
  mindckpt_status (*event_destroy)(void* event);
  /* The event happens when all that was put into the stream before has ended. Recording it again
     forgets the earlier time, also for those who wait from then on. */
  mindckpt_status (*event_record)(void* event, void* stream);
  mindckpt_status (*event_query)(void* event); /* MINDCKPT_OK: it has, or was never recorded */
  mindckpt_status (*event_sync)(void* event);  /* returns when that is so */

  /* Puts a copy of at least one byte into the stream. The host's side lies in what one call of
     host_alloc or host_register gave, and stays until the copy has ended. */
  mindckpt_status (*copy_async)(void* to, const void* from, size_t nbytes, int32_t direction,
                                void* stream);

  /* The same for many copies at once, at least one, in any order, where that is cheaper than one by
     one. Optional. */
  mindckpt_status (*copy_batch_async)(void* const* to, const void* const* from,
                                      const size_t* nbytes, size_t count, int32_t direction,
                                      void* stream);

  /* ---- Since version 1.1 */

  /* Returns when all that was put into any stream of the device has ended, or failed; whoever made
     the stream. Before memory of device_alloc is read whose writer named no stream. Optional:
     without it such memory is read as it is. */
  mindckpt_status (*device_sync)(void);
} mindckpt_device_backend;

typedef const mindckpt_device_backend* (*mindckpt_device_entry)(void);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* MINDCKPT_DEVICE_API_H_ */
