// SPDX-License-Identifier: Apache-2.0
//
// What the parts of the simulated Ascend share. The state (devices, memory,
// streams, captures) lives in libascendcl.so alone; libhccl.so and the ATen
// kernels link to it and see it only through this header, so that there is one
// current device and one account of the memory in a process.
//
// Every function that returns `int` and is not a predicate returns an ACL error
// code: 0 is success. Device numbers are the logical ones that the program sees
// (after ASCEND_RT_VISIBLE_DEVICES) unless a name says "physical".
#ifndef ASCEND_SIM_H_
#define ASCEND_SIM_H_

#include <stddef.h>
#include <stdint.h>

#define ASCEND_SIM_API __attribute__((visibility("default")))

// Error codes of the ACL interface that the simulator gives, by their ACL names.
enum {
  ACL_SUCCESS = 0,
  ACL_ERROR_RT_PARAM_INVALID = 107000,
  ACL_ERROR_RT_INVALID_DEVICEID = 107001,
  ACL_ERROR_RT_CONTEXT_NULL = 107002,
  ACL_ERROR_RT_STREAM_CONTEXT = 107003,
  ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID = 107006,
  ACL_ERROR_RT_INVALID_MEMORY_TYPE = 107016,
  ACL_ERROR_RT_INVALID_HANDLE = 107017,
  ACL_ERROR_RT_WAIT_TIMEOUT = 107019,
  ACL_ERROR_RT_CAPTURE_DEPENDENCY = 107024,
  ACL_ERROR_RT_STREAM_UNJOINED = 107025,
  ACL_ERROR_RT_STREAM_CAPTURED = 107027,
  ACL_ERROR_RT_EVENT_CAPTURED = 107028,
  ACL_ERROR_RT_STREAM_NOT_CAPTURED = 107029,
  ACL_ERROR_RT_STREAM_CAPTURE_UNMATCHED = 107036,
  ACL_ERROR_RT_MODEL_UPDATE_FAILED = 107040,
  ACL_ERROR_RT_FEATURE_NOT_SUPPORT = 207000,
  ACL_ERROR_RT_MEMORY_ALLOCATION = 207001,
  ACL_ERROR_RT_NO_EVENT_RESOURCE = 207007,
  ACL_ERROR_RT_NO_STREAM_RESOURCE = 207008,
  ACL_ERROR_RT_INTERNAL_ERROR = 507000,
  ACL_ERROR_RT_MODEL_EXECUTE = 507011,
  ACL_ERROR_RT_STREAM_CAPTURE_INVALIDATED = 507903,
};

#ifdef __cplusplus
extern "C" {
#endif

// ---- errors ---------------------------------------------------------------

// Keep a message for aclGetRecentErrMsg of this thread and return `code`.
ASCEND_SIM_API int ascend_sim_error(int code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

// For a function that exists only so that torch_npu links: names itself on
// stderr (once per name) and in the error message; returns
// ACL_ERROR_RT_FEATURE_NOT_SUPPORT.
ASCEND_SIM_API int ascend_sim_unimplemented(const char *function);

// ---- the simulated machine and its devices ----------------------------------

// Name of the simulated machine that this process runs on (ASCEND_SIM_MACHINE).
// Processes with the same name share devices: use it as a prefix for POSIX
// shared memory names. Only letters, digits, '.', '_' and '-'.
ASCEND_SIM_API const char *ascend_sim_machine(void);

ASCEND_SIM_API int ascend_sim_device_count(void);
// Device that this thread has chosen, -1 if none yet.
ASCEND_SIM_API int ascend_sim_current_device(void);
// Number of the device on the machine, -1 if `device` is out of range.
ASCEND_SIM_API int ascend_sim_physical_device(int device);

// ---- memory -----------------------------------------------------------------

// 1 if `p` lies in the memory of a device of this process, else 0.
ASCEND_SIM_API int ascend_sim_is_device_ptr(const void *p);
// Device whose memory `p` lies in, -1 for host memory.
ASCEND_SIM_API int ascend_sim_ptr_device(const void *p);
// 1 if all of [p, p + bytes) lies in one live device allocation, else 0.
ASCEND_SIM_API int ascend_sim_device_range(const void *p, size_t bytes);

// What nobody has written: fresh memory holds NaN in floats of every width and large numbers
// in integers, memory that was let go others of the kind. Not with ASCEND_SIM_GARBAGE=0. Of a
// region above 32 MiB, of which most may never be touched, only the ends are filled.
ASCEND_SIM_API int ascend_sim_garbage(void);
ASCEND_SIM_API void ascend_sim_set_garbage(int wanted);  // to measure what it costs
ASCEND_SIM_API void ascend_sim_fill_fresh(void *p, size_t bytes);
ASCEND_SIM_API void ascend_sim_fill_freed(void *p, size_t bytes);

// Take what a device needs for itself (a communicator's buffers) of its memory: 1 taken, 0
// where such overheads do not count on so small a device, -1 with an error kept where it is
// not free. What was taken is given back by ascend_sim_give_overhead.
ASCEND_SIM_API int ascend_sim_take_overhead(int device, size_t bytes, const char *what);
ASCEND_SIM_API void ascend_sim_give_overhead(int device, size_t bytes);

// ---- streams and graph capture ------------------------------------------------

// Device of a stream; of the current context where `stream` is NULL.
ASCEND_SIM_API int ascend_sim_stream_device(void *stream);
// Number of captures, task group updates and waiting replays in this process: while it
// is 0, every stream is plain and needs no question.
ASCEND_SIM_API int ascend_sim_streams_busy(void);
// 1 while `stream` captures into a graph (or into a task group of one).
ASCEND_SIM_API int ascend_sim_stream_capturing(void *stream);

// Do `run(argument)` in stream order: at once on a plain stream; while the stream
// captures it is recorded instead, and runs at each replay. `run` returns an ACL
// error code. `drop(argument)` (may be NULL) is called exactly once, when the
// argument is no longer needed: after `run` on a plain stream, with the graph
// otherwise. A stream that waits for something that nobody has recorded yet gives
// an error, because the real one would hang.
ASCEND_SIM_API int ascend_sim_stream_submit(void *stream, int (*run)(void *), void *argument,
                                            void (*drop)(void *));

// As ascend_sim_stream_submit, but while the stream captures the work is recorded
// *and* done now, so that the operators captured after it see sane values. The
// caller first tells every region that the work writes by
// ascend_sim_capture_will_write; the end of the capture puts the old bytes back:
// to the program a capture computes nothing, as on the device.
ASCEND_SIM_API int ascend_sim_capture_record(void *stream, int (*run)(void *), void *argument,
                                             void (*drop)(void *));
ASCEND_SIM_API void ascend_sim_capture_will_write(void *stream, void *p, size_t bytes);
// For memory that the capture itself brought into being: it holds all-ones bytes (NaN
// in every floating type) from the end of the capture to the first replay, so that
// reading it before a replay shows.
ASCEND_SIM_API void ascend_sim_capture_will_create(void *stream, void *p, size_t bytes);

// The graph that `stream` captures holds `count` streams more for `of` (a communicator), once
// for each. Success where it captures nothing.
ASCEND_SIM_API int ascend_sim_capture_takes_streams(void *stream, const void *of, uint32_t count);

// ---- the order of work --------------------------------------------------------------

// What finds the line of the program that the calling thread is at, for reports. It may
// take Python's lock. Null when Python ends.
ASCEND_SIM_API void ascend_sim_set_site(void (*find)(char *text, size_t room));
// Whether races are looked for from now on, to measure what that costs.
ASCEND_SIM_API void ascend_sim_set_races(int wanted);
// Not 0 while copies are pending or several streams of a device work: else there is
// nothing to tell.
ASCEND_SIM_API int ascend_sim_watched(void);
ASCEND_SIM_API int ascend_sim_several_streams(void);
// Work is issued to a stream.
ASCEND_SIM_API void ascend_sim_launch(void *stream);
ASCEND_SIM_API int ascend_sim_is_pinned(const void *p);
// Pending copies of this host memory come before what is issued now.
ASCEND_SIM_API void ascend_sim_host_memory_ready(const void *host, size_t bytes);
// A copy that the host does not wait for, which has been done. Until the host has waited
// the source must stay as it is; a target on the host holds bytes of ones
// until then. A `late` copy to the host has not been done and does it by itself. `release(held)`
// is called when the host memory is no longer needed; `shared(held)`: whether the program has
// it, too.
ASCEND_SIM_API void ascend_sim_copy_pending(void *stream, void *host, void *device, size_t bytes, int to_host,
                                            int late, void *held, void (*release)(void *),
                                            int (*shared)(void *));
// The host has waited for a stream: success, or the error of a race, with
// ASCEND_SIM_RACES=error.
ASCEND_SIM_API int ascend_sim_stream_done(void *stream);
ASCEND_SIM_API int ascend_sim_device_done(int device);
// Work on a stream reads or writes these pieces of device memory.
ASCEND_SIM_API int ascend_sim_access(void *stream, const void *const *starts, const size_t *sizes, const int *writes,
                                     int count, const char *operation);

// Work that runs late (ASCEND_SIM_ORDER). Around work on a stream that can run again with the
// addresses that it had: begin gives 1 where it is guessed now and queued by the end (`run` null:
// it is not queued; `to_host`: it changes memory of the host and is not guessed). No work may be
// waited for in between. 0: it runs now, and there is no end.
ASCEND_SIM_API int ascend_sim_deferring(void);
ASCEND_SIM_API int ascend_sim_work_begin(void *stream);
ASCEND_SIM_API void ascend_sim_work_end(void *stream, int (*run)(void *), void *argument, void (*drop)(void *),
                                        int to_host);
// Around what cannot run again: nothing is queued until the end.
ASCEND_SIM_API void ascend_sim_direct_begin(void);
ASCEND_SIM_API void ascend_sim_direct_end(void);
// Host memory that a queued copy fills now.
ASCEND_SIM_API void ascend_sim_host_memory_filled(void *p, size_t bytes);
// The host waits for all that was issued to the stream; to any, where it is null.
ASCEND_SIM_API int ascend_sim_work_wait(void *stream);

// ---- what a program asks of its devices ----------------------------------------------

// Who is told of each launch, copy and wait, by `kind`: "launch" (an operator that computes),
// "to device" and "to host" (a copy, with its bytes), "wait" (the host waits for a device),
// "replay" (a graph, with the launches in it). `dtypes` are those of a launch's tensors, read and
// written, as torch names them: "int64,int64->bool"; empty where nobody knows. It may take
// Python's lock. Null for nobody, the usual case, which costs one load.
typedef void ascend_sim_observer(const char *kind, const char *what, const char *dtypes, uint64_t amount);
ASCEND_SIM_API void ascend_sim_set_observer(ascend_sim_observer *observe);
ASCEND_SIM_API int ascend_sim_observed(void);
ASCEND_SIM_API void ascend_sim_observe(const char *kind, const char *what, const char *dtypes, uint64_t amount);
// From here to the end this thread is inside of an operator that is one launch on a device;
// of one that launches anything, or `always`.
ASCEND_SIM_API void ascend_sim_observe_begin(void);
ASCEND_SIM_API void ascend_sim_observe_end(const char *what, const char *dtypes, int always);

// Success, or the error that a host read or synchronisation named `what` meets
// while this stream captures or waits for ever.
ASCEND_SIM_API int ascend_sim_stream_host_access(void *stream, const char *what);

#ifdef __cplusplus
}
#endif

#endif  // ASCEND_SIM_H_
