// SPDX-License-Identifier: Apache-2.0
//
// The ACL runtime: streams, and work in their order.
#include "acl_defer.h"
#include "acl_settings.h"
#include "acl_stream.h"

#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

namespace acl_sim {

std::set<Stream *> streams;
std::atomic<int> busy{0};

namespace {

Stream *default_streams[kMaxDevices];
int32_t next_stream_id = 0;

// Null with an error kept where the device has no more.
Stream *new_stream(int device) {
  if (!take_streams(config().physical[device], 1)) {
    no_streams(device, "a new stream", 1);
    return nullptr;
  }
  Stream *s = new Stream;
  s->device = device;
  s->id = next_stream_id++;
  streams.insert(s);
  return s;
}

}  // namespace

int no_streams(int device, const char *what, uint32_t count) {
  uint32_t used = used_streams(config().physical[device]);
  return ascend_sim_error(ACL_ERROR_RT_NO_STREAM_RESOURCE,
                          "no stream resource on device %d: %s takes %u, %u of %u are in use (a captured graph holds "
                          "one and one for each stream that joined it, and those of its communicators, until it is "
                          "destroyed)",
                          device, what, count, used, kStreams);
}

Stream *stream_of(void *handle) {
  Guard guard(state_mutex);
  if (!handle) {
    int device = 0;
    if (need_device(&device)) return nullptr;
    if (!default_streams[device]) default_streams[device] = new_stream(device);
    return default_streams[device];
  }
  Stream *s = static_cast<Stream *>(handle);
  if (!streams.count(s)) {
    ascend_sim_error(ACL_ERROR_RT_INVALID_HANDLE, "%p is not a stream", handle);
    return nullptr;
  }
  return s;
}

int64_t now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t{t.tv_sec} * 1000000000 + t.tv_nsec;
}

int blocked(Stream *s, const char *what) {
  return ascend_sim_error(ACL_ERROR_RT_WAIT_TIMEOUT,
                          "%s on stream %d, where a replayed graph waits for an event that nobody has recorded: on "
                          "the device this comes after the record or hangs",
                          what, s->id);
}

namespace {

int submit(void *handle, int (*run)(void *), void *argument, void (*drop)(void *), bool now_too) {
  Stream *s = stream_of(handle);
  auto node = std::make_shared<Node>();
  node->run = run;
  node->argument = argument;
  node->drop = drop;
  if (!s) return last_error;
  Direct nothing_is_queued;
  {
    Guard guard(state_mutex);
    if (Nodes *to = recording(s)) {
      append(s, to, node);
      if (!now_too) return ACL_SUCCESS;
    } else if (!s->pending.empty()) {
      return blocked(s, "work");
    }
  }
  return run(argument);
}

}  // namespace

}  // namespace acl_sim

using namespace acl_sim;

int ascend_sim_stream_device(void *stream) {
  Stream *s = stream_of(stream);
  return s ? s->device : -1;
}

int ascend_sim_streams_busy(void) { return busy.load(); }

int ascend_sim_stream_submit(void *stream, int (*run)(void *), void *argument, void (*drop)(void *)) {
  return submit(stream, run, argument, drop, false);
}

int ascend_sim_capture_record(void *stream, int (*run)(void *), void *argument, void (*drop)(void *)) {
  return submit(stream, run, argument, drop, true);
}

int ascend_sim_stream_host_access(void *stream, const char *what) {
  Guard guard(state_mutex);
  Stream *s = stream_of(stream);
  if (!s) return last_error;
  if (s->capture)
    return ascend_sim_error(ACL_ERROR_RT_STREAM_CAPTURED,
                            "%s is not permitted while stream %d captures a graph: the value does not exist until "
                            "the graph is replayed",
                            what, s->id);
  if (s->error) {
    int code = s->error;
    s->error = 0;
    last_message = s->error_message;
    last_error = code;
    return code;
  }
  if (!s->pending.empty()) return blocked(s, what);
  return ACL_SUCCESS;
}

ACL_API int aclrtCreateStream(void **stream) {
  int device = 0;
  if (int code = need_device(&device)) return code;
  Guard guard(state_mutex);
  *stream = new_stream(device);
  return *stream ? ACL_SUCCESS : last_error;
}

ACL_API int aclrtCreateStreamWithConfig(void **stream, uint32_t, uint32_t) { return aclrtCreateStream(stream); }

ACL_API int aclrtDestroyStream(void *stream) {
  Direct nothing_is_queued;
  Stream *s = stream_of(stream);
  if (!s) return last_error;
  std::unique_ptr<Stream> dead;
  Guard guard(state_mutex);
  if (s->capture) return ascend_sim_error(ACL_ERROR_RT_STREAM_CAPTURED, "stream %d is capturing", s->id);
  if (default_streams[s->device] == s) default_streams[s->device] = nullptr;
  order_forget(s);
  streams.erase(s);
  give_streams(config().physical[s->device], 1);
  busy -= static_cast<int>(s->pending.size()) + (s->update ? 1 : 0);
  reset_core_limit(s);
  dead.reset(s);
  return ACL_SUCCESS;
}

ACL_API int aclrtDestroyStreamForce(void *stream) { return aclrtDestroyStream(stream); }

ACL_API int aclrtStreamGetId(void *stream, int32_t *id) {
  Stream *s = stream_of(stream);
  if (!s) return last_error;
  *id = s->id;
  return ACL_SUCCESS;
}

ACL_API int aclrtSynchronizeStream(void *stream) {
  if (int code = ascend_sim_stream_host_access(stream, "a synchronisation with the stream")) return code;
  if (int code = ascend_sim_work_wait(stream ? stream : stream_of(nullptr))) return code;
  ascend_sim_observe("wait", "a stream", "", 0);
  return ascend_sim_watched() ? ascend_sim_stream_done(stream) : ACL_SUCCESS;
}
ACL_API int aclrtSynchronizeStreamWithTimeout(void *stream, int32_t) { return aclrtSynchronizeStream(stream); }

ACL_API int aclrtSynchronizeDevice(void) {
  int device = 0;
  if (int code = need_device(&device)) return code;
  if (int code = not_while_capturing("a synchronisation with the device")) return code;
  if (int code = defer_wait(nullptr)) return code;
  ascend_sim_observe("wait", "a device", "", 0);
  {
    Guard guard(state_mutex);
    for (Stream *s : streams) {
      if (s->device != device || s->capture) continue;
      if (int code = ascend_sim_stream_host_access(s, "a synchronisation with the device")) return code;
      order_done(order_of(s));
    }
  }
  return order_error();
}
ACL_API int aclrtSynchronizeDeviceWithTimeout(int32_t) { return aclrtSynchronizeDevice(); }

ACL_API int aclrtStreamQuery(void *stream, int *status) {
  Order all;
  {
    Guard guard(state_mutex);
    Stream *s = stream_of(stream);
    if (!s) return last_error;
    if (!s->capture) all = order_of(s);
  }
  if (!all.empty() && !defer_try(all)) {
    *status = 1;  // another thread is at work
    return ACL_SUCCESS;
  }
  {
    Guard guard(state_mutex);
    Stream *s = stream_of(stream);
    if (!s) return last_error;
    if (s->capture) return ascend_sim_stream_host_access(stream, "a query of the stream");
    *status = s->pending.empty() ? 0 : 1;
    if (s->pending.empty()) order_done(order_of(s));
  }
  order_settle(false);
  return ACL_SUCCESS;
}

// The work has run when the call returns, so a host function runs in stream order.
namespace {
struct HostCall {
  void (*function)(void *);
  void *argument;
};
int do_host_call(void *argument) {
  HostCall *call = static_cast<HostCall *>(argument);
  call->function(call->argument);
  return ACL_SUCCESS;
}
void drop_host_call(void *argument) { delete static_cast<HostCall *>(argument); }
}  // namespace

ACL_API int aclrtLaunchHostFunc(void *stream, void (*function)(void *), void *argument) {
  return ascend_sim_stream_submit(stream, do_host_call, new HostCall{function, argument}, drop_host_call);
}
ACL_API int aclrtLaunchCallback(void (*function)(void *), void *argument, int, void *stream) {
  return aclrtLaunchHostFunc(stream, function, argument);
}
ACL_API int aclrtSubscribeReport(uint64_t, void *) { return ACL_SUCCESS; }
ACL_API int aclrtUnSubscribeReport(uint64_t, void *) { return ACL_SUCCESS; }
// Called in a loop by a thread that would run the callbacks: there is never one left.
ACL_API int aclrtProcessReport(int32_t timeout) {
  usleep(static_cast<useconds_t>(timeout > 0 ? std::min(timeout, 100) : 100) * 1000);
  return ACL_SUCCESS;
}
