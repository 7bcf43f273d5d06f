// SPDX-License-Identifier: Apache-2.0
//
// The ACL runtime: events.
#include "acl_defer.h"
#include "acl_stream.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <set>
#include <vector>

namespace acl_sim {

std::set<Event *> events;

Event *event_of(void *handle) {
  Guard guard(state_mutex);
  Event *e = static_cast<Event *>(handle);
  if (!events.count(e)) {
    ascend_sim_error(ACL_ERROR_RT_INVALID_HANDLE, "%p is not an event", handle);
    return nullptr;
  }
  return e;
}

namespace {

size_t events_of[kMaxDevices];  // of this process

std::shared_ptr<Node> event_node(Node::Kind kind, Event *e) {
  auto node = std::make_shared<Node>();
  node->kind = kind;
  node->event = e;
  return node;
}

}  // namespace

}  // namespace acl_sim

using namespace acl_sim;

ACL_API int aclrtCreateEventExWithFlag(void **event, uint32_t flags) {
  Guard guard(state_mutex);
  int device = ascend_sim_current_device();
  if (device >= 0 && events_of[device] >= kEvents)
    return ascend_sim_error(ACL_ERROR_RT_NO_EVENT_RESOURCE,
                            "no event resource on device %d: this process has made all %zu and destroyed none", device,
                            kEvents);
  Event *e = new Event;
  e->flags = flags;
  e->device = device;
  if (device >= 0) ++events_of[device];
  events.insert(e);
  *event = e;
  return ACL_SUCCESS;
}
ACL_API int aclrtCreateEventWithFlag(void **event, uint32_t flags) { return aclrtCreateEventExWithFlag(event, flags); }
ACL_API int aclrtCreateEvent(void **event) { return aclrtCreateEventExWithFlag(event, 0); }

ACL_API int aclrtDestroyEvent(void *event) {
  Event *e = event_of(event);
  if (!e) return last_error;
  Guard guard(state_mutex);
  events.erase(e);
  if (e->device >= 0) --events_of[e->device];
  delete e;
  return ACL_SUCCESS;
}

ACL_API int aclrtRecordEvent(void *event, void *stream) {
  Event *e = event_of(event);
  Stream *s = stream_of(stream);
  if (!e || !s) return last_error;
  std::vector<Stream *> waiting;
  {
    Guard guard(state_mutex);
    if (s->capture) {
      if (e->flags & kEventExternal) {
        append(s, recording(s), event_node(Node::kRecord, e));
      } else {
        e->capture = s->capture;
        e->clock = s->clock;
      }
      return ACL_SUCCESS;
    }
    if (!s->pending.empty() && !(e->flags & kEventExternal)) return ACL_SUCCESS;  // not reached yet
    e->capture.reset();
    e->recorded = e->ever = true;
    e->nanoseconds = now();
    e->order = order_of(s);
    for (Stream *other : streams)
      if (!other->pending.empty()) waiting.push_back(other);
  }
  for (Stream *other : waiting) {
    if (int code = advance(other)) {
      Guard guard(state_mutex);
      other->error = code;
      other->error_message = last_message;
    }
  }
  return ACL_SUCCESS;
}

ACL_API int aclrtResetEvent(void *event, void *stream) {
  Guard guard(state_mutex);
  Event *e = event_of(event);
  Stream *s = stream_of(stream);
  if (!e || !s) return last_error;
  if (s->capture) append(s, recording(s), event_node(Node::kReset, e));
  else e->recorded = false;
  return ACL_SUCCESS;
}

ACL_API int aclrtStreamWaitEvent(void *stream, void *event) {
  Guard guard(state_mutex);
  Event *e = event_of(event);
  Stream *s = stream_of(stream);
  if (!e || !s) return last_error;
  ModelPtr from = e->capture.lock();
  if (from && !from->origin) from.reset();  // that capture is over
  if (from) {
    if (s->capture && s->capture != from)
      return ascend_sim_error(ACL_ERROR_RT_EVENT_CAPTURED, "the event belongs to another capture than stream %d", s->id);
    if (!s->capture) {  // the stream joins the capture
      if (int code = from->hold(1)) return code;
      s->capture = from;
      s->clock.clear();
      from->streams.insert(s);
    }
    for (auto &seen : e->clock) {
      uint64_t &known = s->clock[seen.first];
      known = std::max(known, seen.second);
    }
    return ACL_SUCCESS;
  }
  if (!s->capture) {
    order_wait(s, e->order);
    return ACL_SUCCESS;
  }
  if (e->flags & kEventExternal) {
    append(s, recording(s), event_node(Node::kExternalWait, e));
    return ACL_SUCCESS;
  }
  if (!e->ever) return ACL_SUCCESS;
  return ascend_sim_error(ACL_ERROR_RT_CAPTURE_DEPENDENCY,
                          "stream %d captures and waits for an event that was recorded outside the capture", s->id);
}

namespace {
int captured_event(Event *e, const char *what) {
  ModelPtr from = e->capture.lock();
  if (!from || !from->origin) return ACL_SUCCESS;
  return ascend_sim_error(ACL_ERROR_RT_EVENT_CAPTURED, "%s an event that a capture holds", what);
}
}  // namespace

// The answer to a query is that all before it is done, unless another thread is at work.
static bool passed(Event *e) {
  Order all;
  {
    Guard guard(state_mutex);
    all = e->order;
  }
  if (!defer_try(all)) return false;
  {
    Guard guard(state_mutex);
    order_done(e->order);
  }
  order_settle(false);
  return true;
}

ACL_API int aclrtSynchronizeEvent(void *event) {
  Event *e = event_of(event);
  if (!e) return last_error;
  if (int code = captured_event(e, "synchronisation with")) return code;
  Order all;
  {
    Guard guard(state_mutex);
    all = e->order;
  }
  if (int code = defer_wait(&all)) return code;
  ascend_sim_observe("wait", "an event", "", 0);
  {
    Guard guard(state_mutex);
    order_done(e->order);
  }
  return order_error();
}

ACL_API int aclrtQueryEventStatus(void *event, int *status) {
  Event *e = event_of(event);
  if (!e) return last_error;
  *status = passed(e) ? 1 : 0;  // complete or not
  return captured_event(e, "query of");
}

ACL_API int aclrtQueryEventWaitStatus(void *event, int *status) {
  Event *e = event_of(event);
  if (!e) return last_error;
  *status = passed(e) ? 0 : 1;  // complete or not
  return ACL_SUCCESS;
}

ACL_API int aclrtQueryEvent(void *event, int *status) {
  Event *e = event_of(event);
  if (!e) return last_error;
  *status = passed(e) ? 0 : 1;  // complete or not
  return captured_event(e, "query of");
}

ACL_API int aclrtEventElapsedTime(float *milliseconds, void *start, void *end) {
  Event *a = event_of(start), *b = event_of(end);
  if (!a || !b) return last_error;
  if (!a->ever || !b->ever)
    return ascend_sim_error(ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID, "elapsed time of an event that was not recorded");
  *milliseconds = static_cast<float>(static_cast<double>(b->nanoseconds - a->nanoseconds) / 1e6);
  return ACL_SUCCESS;
}

ACL_API int aclrtEventGetTimestamp(void *event, uint64_t *microseconds) {
  Event *e = event_of(event);
  if (!e) return last_error;
  if (!e->ever) return ascend_sim_error(ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID, "the event was not recorded");
  *microseconds = static_cast<uint64_t>(e->nanoseconds / 1000);
  return ACL_SUCCESS;
}

// An event of another process: its work has run when the handle arrives.
ACL_API int aclrtIpcGetEventHandle(void *event, char *handle) {
  if (!event_of(event)) return last_error;
  memset(handle, 0, 64);
  snprintf(handle, 64, "ascend_sim event");
  return ACL_SUCCESS;
}

struct IpcEventHandle {  // aclrtIpcEventHandle
  char reserved[64];
};

ACL_API int aclrtIpcOpenEventHandle(IpcEventHandle, void **event) {
  int code = aclrtCreateEventExWithFlag(event, 0);
  if (code == ACL_SUCCESS) {
    Event *e = static_cast<Event *>(*event);
    e->recorded = e->ever = true;
    e->nanoseconds = now();
  }
  return code;
}
