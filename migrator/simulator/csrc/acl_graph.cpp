// SPDX-License-Identifier: Apache-2.0
//
// The ACL runtime: graphs, their capture and their replays.
#include "acl_defer.h"
#include "acl_stream.h"

#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <utility>
#include <vector>

namespace acl_sim {

namespace {

constexpr int kCaptureModeThreadLocal = 1;
constexpr int kCaptureModeRelaxed = 2;

// Never destroyed: nodes hold Python callbacks, and Python is gone when static objects go.
std::map<Model *, ModelPtr> &models = *new std::map<Model *, ModelPtr>;
std::map<Node *, std::shared_ptr<Node>> &task_groups = *new std::map<Node *, std::shared_ptr<Node>>;
uint32_t next_model_id = 0;
thread_local int thread_capture_mode = 0;
std::atomic<int> captures{0};

int run_nodes(const Nodes &nodes);

int run_node(Node &node) {
  switch (node.kind) {
    case Node::kWork:
      return node.run(node.argument);
    case Node::kGroup:
      return run_nodes(node.members);
    case Node::kRecord: {
      Guard guard(state_mutex);
      if (events.count(node.event)) {
        node.event->recorded = node.event->ever = true;
        node.event->nanoseconds = now();
      }
      return ACL_SUCCESS;
    }
    case Node::kReset: {
      Guard guard(state_mutex);
      if (events.count(node.event)) node.event->recorded = false;
      return ACL_SUCCESS;
    }
    case Node::kExternalWait:
      return ACL_SUCCESS;
  }
  return ACL_SUCCESS;
}

int run_nodes(const Nodes &nodes) {
  for (const auto &node : nodes)
    if (int code = run_node(*node)) return code;
  return ACL_SUCCESS;
}

}  // namespace

int Model::hold(uint32_t count) {
  if (!take_streams(config().physical[device], count)) return no_streams(device, "a captured graph", count);
  held += count;
  return ACL_SUCCESS;
}

int advance(Stream *s) {
  while (true) {
    std::shared_ptr<Node> node;
    {
      Guard guard(state_mutex);
      if (s->pending.empty()) return ACL_SUCCESS;
      Replay &replay = s->pending.front();
      if (replay.next == replay.nodes.size()) {
        s->pending.erase(s->pending.begin());
        --busy;
        continue;
      }
      node = replay.nodes[replay.next];
      if (node->kind == Node::kExternalWait && events.count(node->event)) {
        if (!node->event->recorded) return ACL_SUCCESS;
        order_wait(s, node->event->order);
      }
      if (node->kind == Node::kRecord && events.count(node->event)) node->event->order = order_of(s);
      ++replay.next;
    }
    if (int code = run_node(*node)) {
      Guard guard(state_mutex);
      busy -= static_cast<int>(s->pending.size());
      s->pending.clear();
      return code;
    }
  }
}

Nodes *recording(Stream *s) {
  if (s->update) return &s->update_nodes;
  if (!s->capture) return nullptr;
  return s->group ? &s->group->members : &s->capture->nodes;
}

std::vector<Saved> *saving(Stream *s) {
  if (s->update) return &s->update_saved;
  return s->capture ? &s->capture->saved : nullptr;
}

void append(Stream *s, Nodes *to, std::shared_ptr<Node> node) {
  to->push_back(std::move(node));
  if (!s->update) ++s->clock[s];
}

int not_while_capturing(const char *what) {
  if (captures.load() == 0 || thread_capture_mode == kCaptureModeRelaxed) return ACL_SUCCESS;
  Guard guard(state_mutex);
  for (auto &entry : models) {
    Model *m = entry.first;
    if (!m->origin || m->mode == kCaptureModeRelaxed) continue;
    if (m->mode == kCaptureModeThreadLocal && !pthread_equal(m->thread, pthread_self())) continue;
    return ascend_sim_error(ACL_ERROR_RT_STREAM_CAPTURED,
                            "%s is not permitted while stream %d captures a graph: the value does not exist until "
                            "the graph is replayed",
                            what, m->origin->id);
  }
  return ACL_SUCCESS;
}

}  // namespace acl_sim

using namespace acl_sim;

int ascend_sim_stream_capturing(void *stream) {
  Guard guard(state_mutex);
  Stream *s = stream_of(stream);
  return s && recording(s) ? 1 : 0;
}

void ascend_sim_capture_will_write(void *stream, void *p, size_t bytes) {
  Guard guard(state_mutex);
  Stream *s = stream_of(stream);
  std::vector<Saved> *to = s ? saving(s) : nullptr;
  if (!to || bytes == 0) return;
  char *at = static_cast<char *>(p);
  // A cache is written by every layer of a model: what is saved already holds the older bytes.
  for (const Saved &saved : *to)
    if (saved.old && saved.at <= at && at + bytes <= saved.at + saved.bytes) return;
  std::unique_ptr<char[]> old(new char[bytes]);
  memcpy(old.get(), p, bytes);
  to->push_back({at, bytes, std::move(old)});
}

void ascend_sim_capture_will_create(void *stream, void *p, size_t bytes) {
  Guard guard(state_mutex);
  Stream *s = stream_of(stream);
  std::vector<Saved> *to = s ? saving(s) : nullptr;
  if (!to || bytes == 0) return;
  char *at = static_cast<char *>(p);
  for (const Saved &saved : *to)
    if (!saved.old && saved.at == at && saved.bytes == bytes) return;
  to->push_back({at, bytes, nullptr});
}

int ascend_sim_capture_takes_streams(void *stream, const void *of, uint32_t count) {
  Guard guard(state_mutex);
  Stream *s = stream_of(stream);
  if (!s) return last_error;
  if (!s->capture || s->capture->holders.count(of)) return ACL_SUCCESS;
  if (int code = s->capture->hold(count)) return code;
  s->capture->holders.insert(of);
  return ACL_SUCCESS;
}

ACL_API int aclmdlRICaptureBegin(void *stream, int mode) {
  Direct nothing_is_queued;
  Stream *s = stream_of(stream);
  if (!s) return last_error;
  Guard guard(state_mutex);
  if (s->capture) return ascend_sim_error(ACL_ERROR_RT_STREAM_CAPTURED, "stream %d captures already", s->id);
  if (!s->pending.empty()) return blocked(s, "a capture");
  auto model = std::make_shared<Model>();
  model->id = ++next_model_id;
  model->device = s->device;
  if (int code = model->hold(1)) return code;
  model->origin = s;
  model->mode = mode;
  model->thread = pthread_self();
  model->streams.insert(s);
  models[model.get()] = model;
  s->capture = model;
  s->clock.clear();
  ++captures;
  ++busy;
  return ACL_SUCCESS;
}

ACL_API int aclmdlRICaptureGetInfo(void *stream, int *status, void **model) {
  Guard guard(state_mutex);
  Stream *s = stream_of(stream);
  if (!s) return last_error;
  if (status) *status = s->capture ? 1 : 0;
  if (model) *model = s->capture.get();
  return ACL_SUCCESS;
}

ACL_API int aclmdlRICaptureEnd(void *stream, void **model) {
  Guard guard(state_mutex);
  Stream *s = stream_of(stream);
  if (!s) return last_error;
  if (!s->capture) return ascend_sim_error(ACL_ERROR_RT_STREAM_NOT_CAPTURED, "stream %d does not capture", s->id);
  ModelPtr m = s->capture;
  if (m->origin != s)
    return ascend_sim_error(ACL_ERROR_RT_STREAM_CAPTURE_UNMATCHED,
                            "the capture began on stream %d and ends on stream %d", m->origin->id, s->id);
  int unjoined = -1;
  for (Stream *other : m->streams) {
    if (!streams.count(other)) continue;
    if (other != s && s->clock[other] < other->clock[other]) unjoined = other->id;
  }
  for (Stream *other : m->streams) {
    if (!streams.count(other)) continue;
    other->capture.reset();
    other->group.reset();
    other->clock.clear();
  }
  m->origin = nullptr;
  m->streams.clear();
  m->restore();
  --captures;
  --busy;
  if (unjoined >= 0) {
    models.erase(m.get());
    return ascend_sim_error(ACL_ERROR_RT_STREAM_UNJOINED,
                            "stream %d took part in the capture and the capturing stream did not wait for it",
                            unjoined);
  }
  *model = m.get();
  return ACL_SUCCESS;
}

ACL_API int aclmdlRICaptureThreadExchangeMode(int *mode) {
  std::swap(thread_capture_mode, *mode);
  return ACL_SUCCESS;
}

namespace {
ModelPtr model_of(void *handle) {
  Guard guard(state_mutex);
  auto it = models.find(static_cast<Model *>(handle));
  if (it != models.end()) return it->second;
  ascend_sim_error(ACL_ERROR_RT_INVALID_HANDLE, "%p is not a graph", handle);
  return nullptr;
}
}  // namespace

static uint64_t launches(const Nodes &nodes) {
  uint64_t all = 0;
  for (const auto &node : nodes)
    all += node->kind == Node::kGroup ? launches(node->members) : node->kind == Node::kWork;
  return all;
}

ACL_API int aclmdlRIExecuteAsync(void *model, void *stream) {
  Direct nothing_is_queued;
  ModelPtr m = model_of(model);
  Stream *s = stream_of(stream);
  if (!m || !s) return last_error;
  ascend_sim_launch(nullptr);
  if (ascend_sim_observed()) ascend_sim_observe("replay", "a graph", "", launches(m->nodes));
  {
    Guard guard(state_mutex);
    if (m->origin || s->capture)
      return ascend_sim_error(ACL_ERROR_RT_STREAM_CAPTURED, "a replay while stream %d captures", s->id);
    s->pending.push_back({m, m->nodes, 0});
    ++busy;
    if (s->pending.size() > 1) return ACL_SUCCESS;
  }
  return advance(s);
}

ACL_API int aclmdlRIDestroy(void *model) {
  ModelPtr m = model_of(model);
  if (!m) return last_error;
  Guard guard(state_mutex);
  if (m->origin) return ascend_sim_error(ACL_ERROR_RT_STREAM_CAPTURED, "the graph is being captured");
  for (auto &node : m->nodes) task_groups.erase(node.get());
  models.erase(m.get());
  return ACL_SUCCESS;
}

ACL_API int aclmdlRIGetId(void *model, uint32_t *id) {
  ModelPtr m = model_of(model);
  if (!m) return last_error;
  *id = m->id;
  return ACL_SUCCESS;
}

ACL_API int aclmdlRICaptureTaskGrpBegin(void *stream) {
  Guard guard(state_mutex);
  Stream *s = stream_of(stream);
  if (!s) return last_error;
  if (!s->capture) return ascend_sim_error(ACL_ERROR_RT_STREAM_NOT_CAPTURED, "stream %d does not capture", s->id);
  if (s->group) return ascend_sim_error(ACL_ERROR_RT_STREAM_CAPTURED, "a task group is open on stream %d", s->id);
  auto node = std::make_shared<Node>();
  node->kind = Node::kGroup;
  append(s, &s->capture->nodes, node);
  s->group = node;
  return ACL_SUCCESS;
}

ACL_API int aclmdlRICaptureTaskGrpEnd(void *stream, void **handle) {
  Guard guard(state_mutex);
  Stream *s = stream_of(stream);
  if (!s) return last_error;
  if (!s->group) return ascend_sim_error(ACL_ERROR_RT_STREAM_NOT_CAPTURED, "no task group is open on stream %d", s->id);
  task_groups[s->group.get()] = s->group;
  *handle = s->group.get();
  s->group.reset();
  return ACL_SUCCESS;
}

ACL_API int aclmdlRICaptureTaskUpdateBegin(void *stream, void *handle) {
  Direct nothing_is_queued;
  Guard guard(state_mutex);
  Stream *s = stream_of(stream);
  if (!s) return last_error;
  auto it = task_groups.find(static_cast<Node *>(handle));
  if (it == task_groups.end()) return ascend_sim_error(ACL_ERROR_RT_INVALID_HANDLE, "%p is not a task group", handle);
  if (s->capture || s->update)
    return ascend_sim_error(ACL_ERROR_RT_STREAM_CAPTURED, "stream %d captures or updates already", s->id);
  s->update = it->second;
  ++busy;
  return ACL_SUCCESS;
}

ACL_API int aclmdlRICaptureTaskUpdateEnd(void *stream) {
  Guard guard(state_mutex);
  Stream *s = stream_of(stream);
  if (!s) return last_error;
  if (!s->update) return ascend_sim_error(ACL_ERROR_RT_STREAM_NOT_CAPTURED, "stream %d updates no task group", s->id);
  for (auto it = s->update_saved.rbegin(); it != s->update_saved.rend(); ++it)
    if (it->old) memcpy(it->at, it->old.get(), it->bytes);
  s->update_saved.clear();
  std::shared_ptr<Node> group = std::move(s->update);
  s->update.reset();
  --busy;
  Nodes fresh = std::move(s->update_nodes);
  s->update_nodes.clear();
  if (fresh.size() != group->members.size())
    return ascend_sim_error(ACL_ERROR_RT_MODEL_UPDATE_FAILED,
                            "a task group of %zu operators cannot be updated with %zu", group->members.size(),
                            fresh.size());
  group->members = std::move(fresh);
  return ACL_SUCCESS;
}
