/* How tests steer the stand-in device libraries, libcuda.so.1, libascendcl.so and
   libmindckpt_sim.so: each of them exports these functions beside those of the real library, over
   devices of its own. C++ tests find them by dlsym in the library that they loaded, Python tests by
   ctypes.

   The device of a stand-in is a simulation (simulation.h): its memory can't be read by the host,
   its streams are threads. A misuse that no error code could tell a test about (memory freed under
   a copy, a function's name misspelt) ends the process with a message. What is documented as the
   framework's stands for the library that owns the tensors, such as torch: it needs no context on
   the thread, is never made to fail, and is counted neither by stand_in_calls nor by stand_in_live.

   Processes that no test can reach into are steered by their environment, read once at the first
   call of any function, here or of the driver:

       MINDCKPT_STAND_IN_FAIL        function:nth, several separated by ','; functions that
                                     this library lacks are another stand-in's
       MINDCKPT_STAND_IN_SPEED       d2h=8e9,h2d=8e9,d2d=1e12,latency=1e-5 (bytes a second, seconds)
       MINDCKPT_STAND_IN_DEVICES     how many
       MINDCKPT_STAND_IN_DRIVER      CUDA's version, such as 12080
       MINDCKPT_STAND_IN_INIT_ERROR  a code that cuInit, aclInit, or the plug-in's init returns */

#ifndef MINDCKPT_TESTS_PLUGINS_STAND_IN_H_
#define MINDCKPT_TESTS_PLUGINS_STAND_IN_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define STAND_IN_API __attribute__((visibility("default")))

/* ---- The library as a whole */

/* No failures, delays and speed limits (nor those of the environment), two devices, the default
   driver and memory, every count of calls and copies at zero. What lives goes on living; a paused
   stream stays paused. */
STAND_IN_API void stand_in_reset(void);

/* The nth call from now (1: the next) of the function fails, that one alone, does nothing, and
   returns a code that the real one could. Functions have their real names, the plug-in's those of
   the table's fields. nth 0 takes the failure back, "" those of all functions. */
STAND_IN_API void stand_in_fail(const char* function, int64_t nth);
/* Names of all that can fail, each on a line of its own. */
STAND_IN_API const char* stand_in_functions(void);
/* Calls since the last reset, failed ones too. */
STAND_IN_API int64_t stand_in_calls(const char* function);
/* Why the driver refused this thread's last call that it did refuse: "the host's side is not
   pinned". Valid until its next one. */
STAND_IN_API const char* stand_in_why(void);

/* How many there are: "stream", "event", "device_memory" (allocations), "pinned_memory" (host
   allocations and registrations), "context" (retains of primary contexts, attached devices). */
STAND_IN_API int64_t stand_in_live(const char* kind);

STAND_IN_API void stand_in_set_device_count(int32_t count);     /* at most 16 */
STAND_IN_API void stand_in_set_memory(uint64_t total_nbytes);   /* of each device */
STAND_IN_API void stand_in_set_driver_version(int32_t version); /* CUDA's */

/* ---- Time */

/* Directions are device_api.h's: 0 device to host, 1 host to device, 2 on devices. Each device has
   one engine for each, so copies of a direction queue up, whatever their streams. 0: no limit. */
STAND_IN_API void stand_in_set_speed(int32_t direction, double bytes_per_second,
                                     double latency_seconds);
/* Holds up each operation of every stream for a random time. 0: none. */
STAND_IN_API void stand_in_set_random_delay(uint64_t seed, double max_seconds);
/* Since the last reset: what an engine copied, and for how long that kept it busy at the speed set.
 */
STAND_IN_API uint64_t stand_in_copied(int32_t device, int32_t direction);
STAND_IN_API double stand_in_busy_seconds(int32_t device, int32_t direction);

/* ---- The framework's tensors and its streams */

STAND_IN_API void* stand_in_allocate(int32_t device, size_t nbytes); /* NULL: out of memory */
STAND_IN_API void stand_in_release(void* device_pointer);
/* At once, beside all streams. */
STAND_IN_API void stand_in_write(void* device_pointer, const void* from, size_t nbytes);
STAND_IN_API void stand_in_read(const void* device_pointer, void* to, size_t nbytes);

/* A stream that waits for the default stream and holds it up, as those made without
   CU_STREAM_NON_BLOCKING do. The library's own functions take it as well. In the functions below
   NULL, 1 and 2 mean the default streams of the pointer's device, or of device 0. */
STAND_IN_API void* stand_in_stream_create(int32_t device);
STAND_IN_API void stand_in_stream_destroy(void* stream); /* waits for what is in it */
STAND_IN_API void stand_in_stream_sync(void* stream);
/* `from` may be reused when this returns. */
STAND_IN_API void stand_in_stream_write(void* stream, void* device_pointer, const void* from,
                                        size_t nbytes);
STAND_IN_API void stand_in_stream_fill(void* stream, void* device_pointer, int value,
                                       size_t nbytes);
STAND_IN_API void stand_in_stream_delay(void* stream, double seconds);
/* What is put into the stream from now on waits for stand_in_stream_resume: an order of events that
   does not depend on time. */
STAND_IN_API void stand_in_stream_pause(void* stream);
STAND_IN_API void stand_in_stream_resume(void* stream);
/* 1: the stream is being captured into a graph; 0: no longer. */
STAND_IN_API void stand_in_stream_begin_capture(void* stream, int on);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* MINDCKPT_TESTS_PLUGINS_STAND_IN_H_ */
