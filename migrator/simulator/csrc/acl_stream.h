// SPDX-License-Identifier: Apache-2.0
//
// Streams, events and graphs of the ACL runtime.
//
// Work runs at once on the calling thread, so a stream is a token, except that a
// replayed graph may stop at an event that another stream records later.
#ifndef ASCEND_SIM_ACL_STREAM_H_
#define ASCEND_SIM_ACL_STREAM_H_

#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "acl_memory.h"
#include "acl_order.h"
#include "acl_process.h"

namespace acl_sim {

struct Model;
struct Stream;
using Clock = std::map<Stream *, uint64_t>;  // how much of each stream's captured work is known

constexpr uint32_t kEventExternal = 0x20;
constexpr size_t kEvents = 65536;  // that a device has

struct Event {
  int device = -1;
  uint32_t flags = 0;
  bool ever = false;      // recorded at least once
  bool recorded = false;  // recorded since the last reset
  int64_t nanoseconds = 0;
  Order order;                   // of the work before its last record
  std::weak_ptr<Model> capture;  // in which it was recorded last
  Clock clock;
};

struct Node {
  enum Kind { kWork, kGroup, kExternalWait, kRecord, kReset } kind = kWork;
  int (*run)(void *) = nullptr;
  void *argument = nullptr;
  void (*drop)(void *) = nullptr;
  Event *event = nullptr;
  std::vector<std::shared_ptr<Node>> members;  // of a task group

  Node() = default;
  Node(const Node &) = delete;
  Node &operator=(const Node &) = delete;
  ~Node() {
    if (drop) drop(argument);
  }
};
using Nodes = std::vector<std::shared_ptr<Node>>;

struct Saved {
  char *at;
  size_t bytes;
  std::unique_ptr<char[]> old;  // null: memory that the capture made
};

struct Model {
  uint32_t id = 0;
  Stream *origin = nullptr;
  int mode = 0;
  pthread_t thread{};
  std::set<Stream *> streams;
  Nodes nodes;
  std::vector<Saved> saved;
  int device = 0;
  uint32_t held = 0;           // streams of the device, until the graph is destroyed
  std::set<const void *> holders;  // communicators that hold some

  ~Model() {
    if (held) give_streams(config().physical[device], held);
  }
  // Streams more for the graph: success, or the error that there are none.
  int hold(uint32_t count);

  void restore() {
    for (auto it = saved.rbegin(); it != saved.rend(); ++it)
      if (it->old) memcpy(it->at, it->old.get(), it->bytes);
    for (const Saved &s : saved)
      if (!s.old) memset(s.at, 0xff, s.bytes);
    saved.clear();
  }
};
using ModelPtr = std::shared_ptr<Model>;

struct Replay {
  ModelPtr model;
  Nodes nodes;
  size_t next = 0;
};

struct Stream {
  int device = 0;
  int32_t id = 0;
  ModelPtr capture;
  Clock clock;
  std::shared_ptr<Node> group;     // task group that is being captured
  std::shared_ptr<Node> update;    // task group that is being replaced
  Nodes update_nodes;
  std::vector<Saved> update_saved;
  std::vector<Replay> pending;     // replays that wait for an event
  int error = 0;                   // of a replay that went on later
  std::string error_message;
};

extern std::set<Stream *> streams;
extern std::set<Event *> events;
extern std::atomic<int> busy;  // captures, updates and pending replays

// The error of a device whose streams are all in use.
int no_streams(int device, const char *what, uint32_t count);

// The stream of a handle; of the current device where the handle is null. Null with
// an error kept where there is none.
Stream *stream_of(void *handle);
// The event of a handle; null with an error kept where there is none.
Event *event_of(void *handle);
int64_t now();  // in nanoseconds
// The error of `what` on a stream whose replay waits for an event.
int blocked(Stream *s, const char *what);

// Go on with the replays of a stream until one waits or none is left.
int advance(Stream *s);
// Where captured work of this stream goes; null when it does not capture.
Nodes *recording(Stream *s);
// What the capture of this stream puts back at its end; null when it does not capture.
std::vector<Saved> *saving(Stream *s);
void append(Stream *s, Nodes *to, std::shared_ptr<Node> node);
// The error of a call that must not be made while a capture is on: made by any thread
// in "global" mode, by the capturing one in "thread_local", by none in "relaxed".
int not_while_capturing(const char *what);

}  // namespace acl_sim

#endif  // ASCEND_SIM_ACL_STREAM_H_
