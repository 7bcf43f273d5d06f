// SPDX-License-Identifier: Apache-2.0
//
// The ACL runtime of the simulated Ascend: devices, memory, streams, events and
// graph capture, in host memory. torch_npu is the only caller in mind.
//
// Signatures and error codes are those of the ACL interface (acl_rt.h and
// rt_error_codes.h, which torch_npu wheels carry); enumerations are plain ints here.
// Work runs at once on the calling thread, so a stream is a token, except that a
// replayed graph may stop at an event that another stream records later.
#include "ascend_sim.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#define ACL_API extern "C" ASCEND_SIM_API

namespace {

constexpr int kMaxDevices = 64;
constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr uint32_t kEventExternal = 0x20;
constexpr int kCaptureModeThreadLocal = 1;
constexpr int kCaptureModeRelaxed = 2;
constexpr size_t kDefaultMemory = size_t{4} << 30;

// ---- errors -----------------------------------------------------------------

thread_local std::string last_message;
thread_local int last_error = 0;

int fail_v(int code, const char *format, va_list args) {
  char text[1024];
  vsnprintf(text, sizeof text, format, args);
  last_message = std::string("ascend simulator: ") + text;
  last_error = code;
  return code;
}

// ---- configuration ------------------------------------------------------------

struct Config {
  int count = 0;               // devices that the program sees
  int physical[kMaxDevices];   // their numbers on the machine
  size_t memory = kDefaultMemory;
  std::string soc = "Ascend910B1";
  std::string cann = "8.5.0";
  std::string machine = "default";
  std::string error;           // what is wrong with the environment, if anything
};

bool parse_number(const char *text, size_t *value) {
  if (!text || *text < '0' || *text > '9') return false;
  char *end = nullptr;
  errno = 0;
  *value = strtoull(text, &end, 10);
  return errno == 0 && *end == 0;
}

Config read_config() {
  Config c;
  size_t devices = 1;
  const char *text = getenv("ASCEND_SIM_DEVICES");
  if (text && (!parse_number(text, &devices) || devices < 1 || devices > kMaxDevices)) {
    c.error = std::string("ASCEND_SIM_DEVICES='") + text + "' is not a number from 1 to 64";
    return c;
  }
  text = getenv("ASCEND_SIM_MEMORY");
  if (text && (!parse_number(text, &c.memory) || c.memory < kHugePage)) {
    c.error = std::string("ASCEND_SIM_MEMORY='") + text + "' is not a number of bytes from 2097152";
    return c;
  }
  if ((text = getenv("ASCEND_SIM_SOC")) && *text) c.soc = text;
  if ((text = getenv("ASCEND_SIM_CANN")) && *text) c.cann = text;
  if ((text = getenv("ASCEND_SIM_MACHINE")) && *text) c.machine = text;
  for (char &ch : c.machine)
    if (!isalnum(static_cast<unsigned char>(ch)) && !strchr("._-", ch)) ch = '_';
  text = getenv("ASCEND_RT_VISIBLE_DEVICES");
  if (!text) {
    for (size_t i = 0; i < devices; ++i) c.physical[c.count++] = static_cast<int>(i);
    return c;
  }
  // As the real runtime: the list ends at the first entry that names no device.
  std::string list = text;
  size_t from = 0;
  while (from <= list.size() && c.count < kMaxDevices) {
    size_t comma = list.find(',', from);
    if (comma == std::string::npos) comma = list.size();
    size_t number = 0;
    std::string entry = list.substr(from, comma - from);
    entry.erase(std::remove(entry.begin(), entry.end(), ' '), entry.end());
    if (!parse_number(entry.c_str(), &number) || number >= devices) break;
    c.physical[c.count++] = static_cast<int>(number);
    from = comma + 1;
  }
  return c;
}

const Config &config() {
  static const Config c = read_config();
  return c;
}

bool valid_device(int device) { return device >= 0 && device < config().count; }

// ---- memory that processes share an account of ------------------------------------

// One per machine, in POSIX shared memory. A slot belongs to a process until that
// process has ended, however it ended: the next one that looks gives the share back.
struct Slot {
  int32_t pid;
  int32_t unused;
  uint64_t start_time;  // of the process, in clock ticks: tells a reused pid
  uint64_t used[kMaxDevices];
};

constexpr int kSlots = 1024;

struct Ledger {
  Slot slots[kSlots];
};

uint64_t process_start(int pid, bool *dead) {
  char path[64], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  *dead = true;
  FILE *f = fopen(path, "r");
  if (!f) return 0;
  size_t n = fread(text, 1, sizeof text - 1, f);
  fclose(f);
  text[n] = 0;
  const char *p = strrchr(text, ')');  // the name before it may hold anything
  if (!p || p[1] == 0) return 0;
  char state = p[2];
  unsigned long long start = 0;
  int field = 2;
  for (p += 1; *p && field < 21; ++p)
    if (*p == ' ') ++field;
  if (field == 21) {
    while (*p && *p != ' ') ++p;
    sscanf(p, "%llu", &start);
  }
  *dead = state == 'Z' || state == 'X';
  return start;
}

class Account {
 public:
  // Take `bytes` of a physical device; false where that much is not free.
  bool take(int physical, size_t bytes) {
    std::lock_guard<std::mutex> guard(mutex_);
    Locked locked(*this);
    if (!locked.ok) return take_alone(physical, bytes);
    if (total(physical) + bytes > config().memory) {
      reap();
      if (total(physical) + bytes > config().memory) return false;
    }
    own()->used[physical] += bytes;
    return true;
  }

  void give(int physical, size_t bytes) {
    std::lock_guard<std::mutex> guard(mutex_);
    Locked locked(*this);
    if (!locked.ok) {
      alone_[physical] -= std::min(bytes, alone_[physical]);
      return;
    }
    uint64_t &used = own()->used[physical];
    used -= std::min<uint64_t>(bytes, used);
  }

  size_t used(int physical) {
    std::lock_guard<std::mutex> guard(mutex_);
    Locked locked(*this);
    if (!locked.ok) return alone_[physical];
    reap();
    return total(physical);
  }

  // A forked child shares the parent's file lock: it must open the file anew.
  void after_fork() {
    new (&mutex_) std::mutex;
    if (fd_ >= 0) close(fd_);
    if (ledger_) munmap(ledger_, sizeof(Ledger));
    fd_ = -1;
    ledger_ = nullptr;
    slot_ = -1;
  }

  void leave() {
    std::lock_guard<std::mutex> guard(mutex_);
    if (slot_ < 0) return;
    Locked locked(*this);
    if (locked.ok && ledger_->slots[slot_].pid == getpid()) memset(&ledger_->slots[slot_], 0, sizeof(Slot));
    slot_ = -1;
  }

 private:
  struct Locked {
    explicit Locked(Account &a) : account(a), ok(a.open()) {
      if (ok) while (flock(account.fd_, LOCK_EX) != 0 && errno == EINTR) {}
    }
    ~Locked() {
      if (ok) flock(account.fd_, LOCK_UN);
    }
    Account &account;
    bool ok;
  };

  bool open() {
    if (ledger_) return true;
    std::string name = "/ascend_sim." + std::to_string(getuid()) + "." + config().machine + ".memory";
    fd_ = shm_open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd_ < 0 || ftruncate(fd_, sizeof(Ledger)) != 0) return no_ledger(name);
    void *p = mmap(nullptr, sizeof(Ledger), PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    if (p == MAP_FAILED) return no_ledger(name);
    ledger_ = static_cast<Ledger *>(p);
    return true;
  }

  bool no_ledger(const std::string &name) {
    if (!told_) {
      fprintf(stderr, "ascend simulator: cannot share the memory account %s (%s): processes that share "
              "a device will not see each other's memory\n", name.c_str(), strerror(errno));
      told_ = true;
    }
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
    return false;
  }

  bool take_alone(int physical, size_t bytes) {
    if (alone_[physical] + bytes > config().memory) return false;
    alone_[physical] += bytes;
    return true;
  }

  Slot *own() {
    if (slot_ >= 0) return &ledger_->slots[slot_];
    for (int pass = 0; pass < 2; ++pass) {
      for (int i = 0; i < kSlots; ++i) {
        if (ledger_->slots[i].pid != 0 && ledger_->slots[i].pid != getpid()) continue;
        bool dead = false;
        memset(&ledger_->slots[i], 0, sizeof(Slot));
        ledger_->slots[i].pid = getpid();
        ledger_->slots[i].start_time = process_start(getpid(), &dead);
        slot_ = i;
        return &ledger_->slots[i];
      }
      reap();
    }
    fprintf(stderr, "ascend simulator: more than %d processes use one machine\n", kSlots);
    abort();
  }

  uint64_t total(int physical) const {
    uint64_t sum = 0;
    for (const Slot &s : ledger_->slots)
      if (s.pid) sum += s.used[physical];
    return sum;
  }

  void reap() {
    for (Slot &s : ledger_->slots) {
      if (s.pid == 0 || s.pid == getpid()) continue;
      bool dead = false;
      uint64_t start = process_start(s.pid, &dead);
      if (dead || start != s.start_time) memset(&s, 0, sizeof s);
    }
  }

  std::mutex mutex_;
  int fd_ = -1;
  Ledger *ledger_ = nullptr;
  int slot_ = -1;
  bool told_ = false;
  size_t alone_[kMaxDevices] = {};
};

Account &account() {
  static Account *a = [] {
    Account *made = new Account;  // never destroyed: used by destructors of others
    pthread_atfork(nullptr, nullptr, [] { account().after_fork(); });
    atexit([] { account().leave(); });
    return made;
  }();
  return *a;
}

// ---- device memory -----------------------------------------------------------------

// The memory of one device in this process: a sparse file in memory, mapped once.
// A file, so that another process can map a piece of it (IPC); one, so that telling
// a device pointer is a comparison. Its span is larger than the device, because the
// device does not fragment and a first-fit heap does.
struct Arena {
  std::atomic<char *> base{nullptr};
  size_t span = 0;
  int fd = -1;
  std::map<size_t, size_t> holes;  // offset → bytes
  std::map<size_t, size_t> live;   // offset → bytes
};

struct Range {
  size_t bytes;
  int device;
};

std::recursive_mutex state_mutex;
using Guard = std::lock_guard<std::recursive_mutex>;
Arena arenas[kMaxDevices];
// Address ranges beside the arenas: reserved for mapping, or another process's memory.
std::map<char *, Range> ranges;
std::atomic<bool> have_ranges{false};
std::map<char *, size_t> pinned;  // page-locked host memory
std::map<std::string, char *> imported;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

int memory_file(size_t bytes) {
  int fd = static_cast<int>(syscall(SYS_memfd_create, "ascend_sim", 1U /* MFD_CLOEXEC */));
  if (fd >= 0 && ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
    close(fd);
    fd = -1;
  }
  return fd;
}

bool open_arena(int device) {
  Arena &a = arenas[device];
  if (a.base.load()) return true;
  size_t span = round_up(config().memory * 2 + (size_t{1} << 30), kHugePage);
  int fd = memory_file(span);
  if (fd < 0) return false;
  void *p = mmap(nullptr, span, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (p == MAP_FAILED) {
    close(fd);
    return false;
  }
  a.fd = fd;
  a.span = span;
  a.holes[0] = span;
  a.base.store(static_cast<char *>(p));
  return true;
}

int arena_of(const void *p) {
  const char *c = static_cast<const char *>(p);
  for (int d = 0; d < config().count; ++d) {
    const char *base = arenas[d].base.load(std::memory_order_acquire);
    if (base && c >= base && c < base + arenas[d].span) return d;
  }
  return -1;
}

const std::pair<char *const, Range> *range_of(const void *p) {
  if (!have_ranges.load()) return nullptr;
  char *c = static_cast<char *>(const_cast<void *>(p));
  auto it = ranges.upper_bound(c);
  if (it == ranges.begin()) return nullptr;
  --it;
  return c < it->first + it->second.bytes ? &*it : nullptr;
}

thread_local int current_device = -1;
// Device of a thread that sets none; aclInit's configuration may name one.
std::atomic<int> default_device{-1};
std::atomic<bool> device_used[kMaxDevices];
int contexts[kMaxDevices];  // their addresses are the context handles

int need_device(int *device) {
  if (current_device < 0 && default_device >= 0 && valid_device(default_device)) {
    current_device = default_device;
    device_used[current_device] = true;
  }
  if (current_device < 0) return ascend_sim_error(ACL_ERROR_RT_CONTEXT_NULL, "no device is set on this thread");
  *device = current_device;
  return ACL_SUCCESS;
}

int device_malloc(void **p, size_t bytes, const char *function) {
  int device = 0;
  if (!p || bytes == 0) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%s of %zu bytes", function, bytes);
  if (int code = need_device(&device)) return code;
  *p = nullptr;
  size_t size = round_up(bytes, bytes >= kHugePage / 2 ? kHugePage : kPage);
  int physical = config().physical[device];
  if (!account().take(physical, size))
    return ascend_sim_error(ACL_ERROR_RT_MEMORY_ALLOCATION,
                            "out of memory on device %d: %zu bytes asked for, %zu of %zu in use", device, size,
                            account().used(physical), config().memory);
  Guard guard(state_mutex);
  Arena &a = arenas[device];
  if (open_arena(device)) {
    for (auto it = a.holes.begin(); it != a.holes.end(); ++it) {
      if (it->second < size) continue;
      size_t offset = it->first, rest = it->second - size;
      a.holes.erase(it);
      if (rest) a.holes[offset + size] = rest;
      a.live[offset] = size;
      *p = a.base.load() + offset;
      return ACL_SUCCESS;
    }
  }
  account().give(physical, size);
  return ascend_sim_error(ACL_ERROR_RT_MEMORY_ALLOCATION, "the host has no room for %zu bytes of device %d", size,
                          device);
}

int device_free(void *p) {
  Guard guard(state_mutex);
  int device = arena_of(p);
  if (device < 0) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclrtFree of %p, which is not device memory", p);
  Arena &a = arenas[device];
  size_t offset = static_cast<size_t>(static_cast<char *>(p) - a.base.load());
  auto it = a.live.find(offset);
  if (it == a.live.end())
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclrtFree of %p, which is not the start of an allocation", p);
  size_t bytes = it->second;
  a.live.erase(it);
  madvise(p, bytes, MADV_REMOVE);
  auto hole = a.holes.emplace(offset, bytes).first;
  auto next = std::next(hole);
  if (next != a.holes.end() && hole->first + hole->second == next->first) {
    hole->second += next->second;
    a.holes.erase(next);
  }
  if (hole != a.holes.begin()) {
    auto before = std::prev(hole);
    if (before->first + before->second == hole->first) {
      before->second += hole->second;
      a.holes.erase(hole);
    }
  }
  account().give(config().physical[device], bytes);
  return ACL_SUCCESS;
}

// ---- streams, events, graphs -------------------------------------------------------

struct Model;
struct Stream;
using Clock = std::map<Stream *, uint64_t>;  // how much of each stream's captured work is known

constexpr uint32_t kStreamMagic = 0x5354524d;
constexpr uint32_t kEventMagic = 0x4556454e;

struct Event {
  uint32_t magic = kEventMagic;
  uint32_t flags = 0;
  bool ever = false;      // recorded at least once
  bool recorded = false;  // recorded since the last reset
  int64_t nanoseconds = 0;
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
  uint32_t magic = kStreamMagic;
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

Stream *default_streams[kMaxDevices];
std::set<Stream *> streams;
std::set<Event *> events;
// Never destroyed: nodes hold Python callbacks, and Python is gone when static objects go.
std::map<Model *, ModelPtr> &models = *new std::map<Model *, ModelPtr>;
std::map<Node *, std::shared_ptr<Node>> &task_groups = *new std::map<Node *, std::shared_ptr<Node>>;
int32_t next_stream_id = 0;
uint32_t next_model_id = 0;
thread_local int thread_capture_mode = 0;
std::atomic<int> captures{0};
std::atomic<int> busy{0};  // captures, updates and pending replays

Stream *new_stream(int device) {
  Stream *s = new Stream;
  s->device = device;
  s->id = next_stream_id++;
  streams.insert(s);
  return s;
}

// The stream of a handle; of the current device where the handle is null. Null with
// an error kept where there is none.
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

Event *event_of(void *handle) {
  Guard guard(state_mutex);
  Event *e = static_cast<Event *>(handle);
  if (!events.count(e)) {
    ascend_sim_error(ACL_ERROR_RT_INVALID_HANDLE, "%p is not an event", handle);
    return nullptr;
  }
  return e;
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

// Go on with the replays of a stream until one waits or none is left.
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
      if (node->kind == Node::kExternalWait && events.count(node->event) && !node->event->recorded)
        return ACL_SUCCESS;
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

// Where captured work of this stream goes; null when it does not capture.
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

std::shared_ptr<Node> event_node(Node::Kind kind, Event *e) {
  auto node = std::make_shared<Node>();
  node->kind = kind;
  node->event = e;
  return node;
}

int submit(void *handle, int (*run)(void *), void *argument, void (*drop)(void *), bool now_too) {
  Stream *s = stream_of(handle);
  auto node = std::make_shared<Node>();
  node->run = run;
  node->argument = argument;
  node->drop = drop;
  if (!s) return last_error;
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

// The error of a call that must not be made while a capture is on: made by any thread
// in "global" mode, by the capturing one in "thread_local", by none in "relaxed".
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

int check_copy(const char *function, void *dst, size_t dst_max, const void *src, size_t bytes, int kind) {
  static const char *const names[] = {"HOST_TO_HOST", "HOST_TO_DEVICE", "DEVICE_TO_HOST", "DEVICE_TO_DEVICE",
                                      "DEFAULT", "HOST_TO_BUF_TO_DEVICE", "INNER_DEVICE_TO_DEVICE",
                                      "INTER_DEVICE_TO_DEVICE"};
  if (kind < 0 || kind > 7) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%s of unknown kind %d", function, kind);
  if (!dst || !src || bytes > dst_max)
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%s of %zu bytes from %p to %p, which holds %zu", function,
                            bytes, src, dst, dst_max);
  int to = ascend_sim_ptr_device(dst), from = ascend_sim_ptr_device(src);
  bool to_device = kind == 1 || kind == 3 || kind >= 5, from_device = kind == 2 || kind == 3 || kind >= 6;
  if (kind != 4 && ((to >= 0) != to_device || (from >= 0) != from_device))
    return ascend_sim_error(ACL_ERROR_RT_INVALID_MEMORY_TYPE, "%s of kind %s from %s memory to %s memory", function,
                            names[kind], from >= 0 ? "device" : "host", to >= 0 ? "device" : "host");
  if (kind == 6 && to != from)
    return ascend_sim_error(ACL_ERROR_RT_INVALID_MEMORY_TYPE, "%s within a device from device %d to device %d",
                            function, from, to);
  if ((to >= 0 && !ascend_sim_device_range(dst, bytes)) || (from >= 0 && !ascend_sim_device_range(src, bytes)))
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%s of %zu bytes leaves its device allocation", function,
                            bytes);
  return ACL_SUCCESS;
}

struct Copy {
  void *dst;
  const void *src;
  size_t bytes;
  int value;
};

int do_copy(void *argument) {
  Copy *c = static_cast<Copy *>(argument);
  if (c->src) memmove(c->dst, c->src, c->bytes);
  else memset(c->dst, c->value, c->bytes);
  return ACL_SUCCESS;
}

void drop_copy(void *argument) { delete static_cast<Copy *>(argument); }

}  // namespace

// ---- shared with the other libraries (ascend_sim.h) -----------------------------------

int ascend_sim_error(int code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  fail_v(code, format, args);
  va_end(args);
  return code;
}

int ascend_sim_unimplemented(const char *function) {
  static std::mutex mutex;
  static std::set<std::string> told;
  {
    std::lock_guard<std::mutex> guard(mutex);
    if (told.insert(function).second)
      fprintf(stderr, "ascend simulator: %s was called, which the simulator does not implement\n", function);
  }
  return ascend_sim_error(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "%s is not implemented", function);
}

const char *ascend_sim_machine(void) { return config().machine.c_str(); }

int ascend_sim_device_count(void) { return config().count; }

int ascend_sim_current_device(void) { return current_device; }

int ascend_sim_physical_device(int device) { return valid_device(device) ? config().physical[device] : -1; }

int ascend_sim_ptr_device(const void *p) {
  int device = arena_of(p);
  if (device >= 0 || !have_ranges.load()) return device;
  Guard guard(state_mutex);
  const auto *range = range_of(p);
  return range ? range->second.device : -1;
}

int ascend_sim_is_device_ptr(const void *p) { return ascend_sim_ptr_device(p) >= 0; }

int ascend_sim_device_range(const void *p, size_t bytes) {
  Guard guard(state_mutex);
  const char *c = static_cast<const char *>(p);
  int device = arena_of(p);
  if (device < 0) {
    const auto *range = range_of(p);
    return range && c + bytes <= range->first + range->second.bytes;
  }
  const Arena &a = arenas[device];
  size_t offset = static_cast<size_t>(c - a.base.load());
  auto it = a.live.upper_bound(offset);
  if (it == a.live.begin()) return 0;
  --it;
  return offset + bytes <= it->first + it->second;
}

int ascend_sim_stream_device(void *stream) {
  Stream *s = stream_of(stream);
  return s ? s->device : -1;
}

int ascend_sim_streams_busy(void) { return busy.load(); }

int ascend_sim_stream_capturing(void *stream) {
  Guard guard(state_mutex);
  Stream *s = stream_of(stream);
  return s && recording(s) ? 1 : 0;
}

int ascend_sim_stream_submit(void *stream, int (*run)(void *), void *argument, void (*drop)(void *)) {
  return submit(stream, run, argument, drop, false);
}

int ascend_sim_capture_record(void *stream, int (*run)(void *), void *argument, void (*drop)(void *)) {
  return submit(stream, run, argument, drop, true);
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

// ---- start-up, versions, errors ---------------------------------------------------------

// The configuration is a JSON file; of it only "default_device": "N" means something here.
ACL_API int aclInit(const char *path) {
  if (config().error.empty()) {
    FILE *f = path && *path ? fopen(path, "r") : nullptr;
    if (!f) return ACL_SUCCESS;
    char text[4096];
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    const char *p = strstr(text, "\"default_device\"");
    int device = 0;
    if (p && sscanf(p + strlen("\"default_device\""), " : \"%d", &device) == 1) default_device = device;
    return ACL_SUCCESS;
  }
  fprintf(stderr, "ascend simulator: %s\n", config().error.c_str());
  return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%s", config().error.c_str());
}

ACL_API int aclFinalize(void) { return ACL_SUCCESS; }

ACL_API const char *aclGetRecentErrMsg(void) {
  static thread_local std::string given;  // lives until the thread asks again
  given.swap(last_message);
  last_message.clear();
  return given.c_str();
}

ACL_API int aclrtGetLastError(int) {
  int code = last_error;
  last_error = 0;
  return code;
}

ACL_API int aclrtPeekAtLastError(int) { return last_error; }

ACL_API const char *aclrtGetSocName(void) { return config().soc.c_str(); }

struct PackageVersion {  // aclCANNPackageVersion
  char version[128];
  char major[64];
  char minor[64];
  char release[64];
  char patch[64];
  char reserved[128];
};

ACL_API int aclsysGetCANNVersion(int, PackageVersion *version) {
  if (!version) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclsysGetCANNVersion(NULL)");
  memset(version, 0, sizeof *version);
  snprintf(version->version, sizeof version->version, "%s", config().cann.c_str());
  char *parts[] = {version->major, version->minor, version->release, version->patch};
  std::string rest = config().cann;
  for (char *part : parts) {
    size_t dot = rest.find('.');
    snprintf(part, 64, "%s", rest.substr(0, dot).c_str());
    rest = dot == std::string::npos ? "" : rest.substr(dot + 1);
  }
  return ACL_SUCCESS;
}

ACL_API int aclsysGetVersionStr(char *, char *version) {
  if (!version) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclsysGetVersionStr(NULL)");
  snprintf(version, 128, "%s", config().cann.c_str());
  return ACL_SUCCESS;
}

// Whether inf and NaN, bfloat16 and run-time compilation exist on the chip: attribute 0, 1, 2.
ACL_API int aclGetCannAttribute(int attribute, int32_t *value) {
  if (!value || attribute < 0 || attribute > 2)
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclGetCannAttribute(%d)", attribute);
  *value = 1;
  return ACL_SUCCESS;
}

ACL_API int aclGetCannAttributeList(const int **list, size_t *count) {
  static const int all[] = {0, 1, 2};
  *list = all;
  *count = 3;
  return ACL_SUCCESS;
}

// ---- devices and contexts -----------------------------------------------------------------

ACL_API int aclrtGetDeviceCount(uint32_t *count) {
  if (!config().error.empty()) return aclInit(nullptr);
  *count = static_cast<uint32_t>(config().count);
  return ACL_SUCCESS;
}

ACL_API int aclrtSetDevice(int32_t device) {
  if (!valid_device(device))
    return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist: there are %d", device,
                            config().count);
  current_device = device;
  device_used[device] = true;
  return ACL_SUCCESS;
}

ACL_API int aclrtGetDevice(int32_t *device) { return need_device(device); }

ACL_API int aclrtResetDevice(int32_t device) {
  if (!valid_device(device))
    return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist", device);
  device_used[device] = false;
  return ACL_SUCCESS;
}

ACL_API int aclrtGetCurrentContext(void **context) {
  int device = 0;
  if (int code = need_device(&device)) return code;
  *context = &contexts[device];
  return ACL_SUCCESS;
}

ACL_API int aclrtSetCurrentContext(void *context) {
  int *c = static_cast<int *>(context);
  if (c < contexts || c >= contexts + config().count)
    return ascend_sim_error(ACL_ERROR_RT_INVALID_HANDLE, "%p is not a context", context);
  return aclrtSetDevice(static_cast<int>(c - contexts));
}

ACL_API int aclrtGetPrimaryCtxState(int32_t device, uint32_t *flags, int32_t *active) {
  if (!valid_device(device))
    return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist", device);
  if (flags) *flags = 0;
  *active = device_used[device] ? 1 : 0;
  return ACL_SUCCESS;
}

ACL_API int aclrtDeviceCanAccessPeer(int32_t *can, int32_t device, int32_t peer) {
  if (!valid_device(device) || !valid_device(peer))
    return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "peer access from device %d to %d", device, peer);
  *can = device != peer;
  return ACL_SUCCESS;
}

ACL_API int aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t) {
  if (!valid_device(peer)) return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist", peer);
  return ACL_SUCCESS;
}

ACL_API int aclrtGetLogicDevIdByUserDevId(int32_t user, int32_t *logical) {
  if (!valid_device(user)) return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist", user);
  *logical = user;
  return ACL_SUCCESS;
}

namespace {
// Ascend910B1: 24 cube and 48 vector cores.
constexpr uint32_t kCubeCores = 24;
constexpr uint32_t kVectorCores = 48;
constexpr int64_t kL2Bytes = int64_t{192} << 20;
}  // namespace

ACL_API int aclrtGetDeviceInfo(uint32_t device, int attribute, int64_t *value) {
  if (!valid_device(static_cast<int>(device)))
    return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %u does not exist", device);
  switch (attribute) {
    case 1: *value = 6; break;                 // AI CPUs
    case 101: case 102: *value = kCubeCores; break;
    case 201: *value = kVectorCores; break;
    case 301: *value = static_cast<int64_t>(config().memory); break;
    case 302: *value = kL2Bytes; break;
    case 402: *value = config().physical[device]; break;
    case 501: *value = 0; break;               // not a slice of a device
    default:
      return ascend_sim_error(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "device attribute %d is not known", attribute);
  }
  return ACL_SUCCESS;
}

ACL_API int aclGetDeviceCapability(uint32_t device, int what, int64_t *value) {
  static const int attributes[] = {101, 201, 302};
  if (what < 0 || what > 2) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclGetDeviceCapability(%d)", what);
  return aclrtGetDeviceInfo(device, attributes[what], value);
}

ACL_API int aclrtDeviceGetUuid(int32_t device, char *uuid) {
  if (!valid_device(device))
    return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist", device);
  snprintf(uuid, 16, "ascend-sim-%02d", config().physical[device]);
  return ACL_SUCCESS;
}

ACL_API int aclrtDeviceGetBareTgid(int32_t *pid) {
  *pid = getpid();
  return ACL_SUCCESS;
}

// Limits on how many cores the work may use: kept and given back, no effect.
namespace {
std::map<std::pair<void *, int>, uint32_t> core_limits;

int get_core_limit(void *of, int type, uint32_t *value) {
  Guard guard(state_mutex);
  auto it = core_limits.find({of, type});
  *value = it != core_limits.end() ? it->second : type == 0 ? kCubeCores : kVectorCores;
  return ACL_SUCCESS;
}

int set_core_limit(void *of, int type, uint32_t value) {
  Guard guard(state_mutex);
  core_limits[{of, type}] = value;
  return ACL_SUCCESS;
}

int reset_core_limit(void *of) {
  Guard guard(state_mutex);
  core_limits.erase({of, 0});
  core_limits.erase({of, 1});
  return ACL_SUCCESS;
}
}  // namespace

ACL_API int aclrtGetDeviceResLimit(int32_t device, int type, uint32_t *value) {
  if (!valid_device(device)) return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist", device);
  return get_core_limit(&contexts[device], type, value);
}
ACL_API int aclrtSetDeviceResLimit(int32_t device, int type, uint32_t value) {
  if (!valid_device(device)) return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist", device);
  return set_core_limit(&contexts[device], type, value);
}
ACL_API int aclrtResetDeviceResLimit(int32_t device) {
  if (!valid_device(device)) return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist", device);
  return reset_core_limit(&contexts[device]);
}
ACL_API int aclrtGetStreamResLimit(void *stream, int type, uint32_t *value) { return get_core_limit(stream, type, value); }
ACL_API int aclrtSetStreamResLimit(void *stream, int type, uint32_t value) { return set_core_limit(stream, type, value); }
ACL_API int aclrtResetStreamResLimit(void *stream) { return reset_core_limit(stream); }
ACL_API int aclrtUseStreamResInCurrentThread(void *) { return ACL_SUCCESS; }
ACL_API int aclrtUnuseStreamResInCurrentThread(void *) { return ACL_SUCCESS; }
ACL_API int aclrtGetResInCurrentThread(int type, uint32_t *value) { return get_core_limit(nullptr, type, value); }

// Settings that change speed, debugging or numerics of the device only: kept where
// there is a getter, otherwise accepted and without effect here.
namespace {
int64_t parameters[16];
std::map<int, std::string> compile_options;
std::map<void *, uint32_t> overflow_switch;
}  // namespace

ACL_API int aclrtSetSysParamOpt(int option, int64_t value) {
  parameters[option & 15] = value;
  return ACL_SUCCESS;
}
ACL_API int aclrtGetSysParamOpt(int option, int64_t *value) {
  *value = parameters[option & 15];
  return ACL_SUCCESS;
}
ACL_API int aclrtCtxSetSysParamOpt(int option, int64_t value) { return aclrtSetSysParamOpt(option, value); }
ACL_API int aclrtCtxGetSysParamOpt(int option, int64_t *value) { return aclrtGetSysParamOpt(option, value); }
ACL_API int aclSetCompileopt(int option, const char *value) {
  Guard guard(state_mutex);
  compile_options[option] = value ? value : "";
  return ACL_SUCCESS;
}
ACL_API size_t aclGetCompileoptSize(int option) {
  Guard guard(state_mutex);
  return compile_options[option].size() + 1;
}
ACL_API int aclGetCompileopt(int option, char *value, size_t length) {
  Guard guard(state_mutex);
  snprintf(value, length, "%s", compile_options[option].c_str());
  return ACL_SUCCESS;
}
ACL_API int aclrtSetDeviceSatMode(int) { return ACL_SUCCESS; }
ACL_API int aclrtSetOpWaitTimeout(uint32_t) { return ACL_SUCCESS; }
ACL_API int aclrtSetOpExecuteTimeOut(uint32_t) { return ACL_SUCCESS; }
ACL_API int aclrtSetOpExecuteTimeOutV2(uint64_t timeout, uint64_t *actual) {
  if (actual) *actual = timeout;
  return ACL_SUCCESS;
}
ACL_API int aclrtSetStreamFailureMode(void *, uint64_t) { return ACL_SUCCESS; }
ACL_API int aclrtSetStreamAttribute(void *, int, void *) { return ACL_SUCCESS; }
ACL_API int aclrtSetStreamOverflowSwitch(void *stream, uint32_t flag) {
  Guard guard(state_mutex);
  overflow_switch[stream] = flag;
  return ACL_SUCCESS;
}
ACL_API int aclrtGetStreamOverflowSwitch(void *stream, uint32_t *flag) {
  Guard guard(state_mutex);
  *flag = overflow_switch[stream];
  return ACL_SUCCESS;
}

// ---- memory ------------------------------------------------------------------------------

ACL_API int aclrtMalloc(void **p, size_t bytes, int) { return device_malloc(p, bytes, "aclrtMalloc"); }
ACL_API int aclrtMallocAlign32(void **p, size_t bytes, int) { return device_malloc(p, bytes, "aclrtMallocAlign32"); }
ACL_API int aclrtFree(void *p) { return device_free(p); }

ACL_API int aclrtGetMemInfo(int, size_t *free_bytes, size_t *total) {
  int device = 0;
  if (int code = need_device(&device)) return code;
  size_t used = account().used(config().physical[device]);
  *total = config().memory;
  *free_bytes = used < *total ? *total - used : 0;
  return ACL_SUCCESS;
}

ACL_API int aclrtMallocHost(void **p, size_t bytes) {
  if (!p || bytes == 0) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclrtMallocHost of %zu bytes", bytes);
  if (posix_memalign(p, kPage, bytes))
    return ascend_sim_error(ACL_ERROR_RT_MEMORY_ALLOCATION, "the host has no room for %zu pinned bytes", bytes);
  Guard guard(state_mutex);
  pinned[static_cast<char *>(*p)] = bytes;
  return ACL_SUCCESS;
}

ACL_API int aclrtMallocHostWithCfg(void **p, uint64_t bytes, void *) { return aclrtMallocHost(p, bytes); }

ACL_API int aclrtFreeHost(void *p) {
  {
    Guard guard(state_mutex);
    if (!pinned.erase(static_cast<char *>(p)))
      return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclrtFreeHost of %p, which is not pinned memory", p);
  }
  free(p);
  return ACL_SUCCESS;
}

ACL_API int aclrtHostRegisterV2(void *p, uint64_t bytes, uint32_t) {
  if (!p || ascend_sim_is_device_ptr(p))
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%p is not host memory to register", p);
  Guard guard(state_mutex);
  pinned[static_cast<char *>(p)] = bytes;
  return ACL_SUCCESS;
}

ACL_API int aclrtHostRegister(void *p, uint64_t bytes, int, void **device_view) {
  if (device_view) *device_view = p;
  return aclrtHostRegisterV2(p, bytes, 0);
}

ACL_API int aclrtHostUnregister(void *p) {
  Guard guard(state_mutex);
  if (!pinned.erase(static_cast<char *>(p)))
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%p was not registered", p);
  return ACL_SUCCESS;
}

struct PointerAttributes {  // aclrtPtrAttributes
  uint32_t id;
  int32_t type;  // 0 pinned host, 1 device, 2 neither
  uint32_t page;
  uint32_t reserved[4];
};

ACL_API int aclrtPointerGetAttributes(const void *p, PointerAttributes *attributes) {
  memset(attributes, 0, sizeof *attributes);
  attributes->page = kPage;
  int device = ascend_sim_ptr_device(p);
  if (device >= 0) {
    attributes->id = static_cast<uint32_t>(device);
    attributes->type = 1;
    return ACL_SUCCESS;
  }
  Guard guard(state_mutex);
  char *c = static_cast<char *>(const_cast<void *>(p));
  auto it = pinned.upper_bound(c);
  bool found = it != pinned.begin() && (--it, c < it->first + it->second);
  attributes->type = found ? 0 : 2;
  return ACL_SUCCESS;
}

ACL_API int aclrtMemcpy(void *dst, size_t dst_max, const void *src, size_t bytes, int kind) {
  if (int code = check_copy("aclrtMemcpy", dst, dst_max, src, bytes, kind)) return code;
  if (int code = not_while_capturing("a synchronous copy (aclrtMemcpy)")) return code;
  memmove(dst, src, bytes);
  return ACL_SUCCESS;
}

ACL_API int aclrtMemcpyAsync(void *dst, size_t dst_max, const void *src, size_t bytes, int kind, void *stream) {
  if (int code = check_copy("aclrtMemcpyAsync", dst, dst_max, src, bytes, kind)) return code;
  ascend_sim_capture_will_write(stream, dst, bytes);
  return ascend_sim_capture_record(stream, do_copy, new Copy{dst, src, bytes, 0}, drop_copy);
}

namespace {
int check_set(const char *function, void *p, size_t max, size_t bytes) {
  if (bytes > max || !ascend_sim_device_range(p, bytes))
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%s of %zu bytes leaves its device allocation", function, bytes);
  return ACL_SUCCESS;
}
}  // namespace

ACL_API int aclrtMemset(void *p, size_t max, int32_t value, size_t bytes) {
  if (int code = check_set("aclrtMemset", p, max, bytes)) return code;
  if (int code = not_while_capturing("aclrtMemset")) return code;
  memset(p, value, bytes);
  return ACL_SUCCESS;
}

ACL_API int aclrtMemsetAsync(void *p, size_t max, int32_t value, size_t bytes, void *stream) {
  if (int code = check_set("aclrtMemsetAsync", p, max, bytes)) return code;
  ascend_sim_capture_will_write(stream, p, bytes);
  return ascend_sim_capture_record(stream, do_copy, new Copy{p, nullptr, bytes, value}, drop_copy);
}

// Virtual addresses and physical memory apart: torch_npu's expandable segments.
namespace {
struct Physical {
  int fd;
  size_t bytes;
  int device;
};
std::set<Physical *> physicals;
std::map<char *, size_t> mapped;
}  // namespace

ACL_API int aclrtReserveMemAddress(void **p, size_t bytes, size_t, void *, uint64_t) {
  int device = 0;
  if (int code = need_device(&device)) return code;
  void *at = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return ascend_sim_error(ACL_ERROR_RT_MEMORY_ALLOCATION, "no %zu bytes of address space", bytes);
  Guard guard(state_mutex);
  ranges[static_cast<char *>(at)] = {bytes, device};
  have_ranges = true;
  *p = at;
  return ACL_SUCCESS;
}

ACL_API int aclrtReleaseMemAddress(void *p) {
  Guard guard(state_mutex);
  auto it = ranges.find(static_cast<char *>(p));
  if (it == ranges.end()) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%p is not a reserved address", p);
  munmap(p, it->second.bytes);
  ranges.erase(it);
  return ACL_SUCCESS;
}

ACL_API int aclrtMallocPhysical(void **handle, size_t bytes, const void *, uint64_t) {
  int device = 0;
  if (int code = need_device(&device)) return code;
  size_t size = round_up(bytes, kPage);
  if (!account().take(config().physical[device], size))
    return ascend_sim_error(ACL_ERROR_RT_MEMORY_ALLOCATION, "out of memory on device %d: %zu bytes asked for", device,
                            size);
  int fd = memory_file(size);
  if (fd < 0) {
    account().give(config().physical[device], size);
    return ascend_sim_error(ACL_ERROR_RT_MEMORY_ALLOCATION, "the host has no room for %zu bytes", size);
  }
  Guard guard(state_mutex);
  Physical *made = new Physical{fd, size, device};
  physicals.insert(made);
  *handle = made;
  return ACL_SUCCESS;
}

ACL_API int aclrtFreePhysical(void *handle) {
  Guard guard(state_mutex);
  Physical *p = static_cast<Physical *>(handle);
  if (!physicals.erase(p)) return ascend_sim_error(ACL_ERROR_RT_INVALID_HANDLE, "%p is not physical memory", handle);
  close(p->fd);
  account().give(config().physical[p->device], p->bytes);
  delete p;
  return ACL_SUCCESS;
}

ACL_API int aclrtMapMem(void *at, size_t bytes, size_t offset, void *handle, uint64_t) {
  Guard guard(state_mutex);
  Physical *p = static_cast<Physical *>(handle);
  if (!physicals.count(p) || offset + bytes > p->bytes || !ascend_sim_device_range(at, bytes))
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclrtMapMem of %zu bytes at %p", bytes, at);
  void *got = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, p->fd, static_cast<off_t>(offset));
  if (got == MAP_FAILED) return ascend_sim_error(ACL_ERROR_RT_INTERNAL_ERROR, "cannot map %zu bytes", bytes);
  mapped[static_cast<char *>(at)] = bytes;
  return ACL_SUCCESS;
}

ACL_API int aclrtUnmapMem(void *at) {
  Guard guard(state_mutex);
  auto it = mapped.find(static_cast<char *>(at));
  if (it == mapped.end()) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "nothing is mapped at %p", at);
  mmap(at, it->second, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  mapped.erase(it);
  return ACL_SUCCESS;
}

// Memory of another process: the key says where its file is.
ACL_API int aclrtIpcMemGetExportKey(void *p, size_t bytes, char *key, size_t length, uint64_t) {
  Guard guard(state_mutex);
  int device = arena_of(p);
  if (device < 0 || !ascend_sim_device_range(p, bytes))
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%p is not device memory to export", p);
  size_t offset = static_cast<size_t>(static_cast<char *>(p) - arenas[device].base.load());
  int n = snprintf(key, length, "%d:%d:%zx:%zx", getpid(), arenas[device].fd, offset, round_up(bytes, kPage));
  if (n < 0 || static_cast<size_t>(n) >= length)
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "an export key does not fit into %zu bytes", length);
  return ACL_SUCCESS;
}

ACL_API int aclrtIpcMemSetImportPid(const char *, int32_t *, size_t) { return ACL_SUCCESS; }

ACL_API int aclrtIpcMemImportByKey(void **p, const char *key, uint64_t) {
  int device = 0, pid = 0, fd = 0;
  size_t offset = 0, bytes = 0;
  if (int code = need_device(&device)) return code;
  if (sscanf(key, "%d:%d:%zx:%zx", &pid, &fd, &offset, &bytes) != 4)
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "'%s' is not an export key", key);
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
  int file = open(path, O_RDWR | O_CLOEXEC);
  size_t start = offset / kPage * kPage;
  void *at = file < 0 ? MAP_FAILED
                      : mmap(nullptr, bytes + offset - start, PROT_READ | PROT_WRITE, MAP_SHARED, file,
                             static_cast<off_t>(start));
  if (file >= 0) close(file);
  if (at == MAP_FAILED)
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "cannot reach the memory of process %d: %s", pid,
                            strerror(errno));
  Guard guard(state_mutex);
  ranges[static_cast<char *>(at)] = {bytes + offset - start, device};
  have_ranges = true;
  imported[key] = static_cast<char *>(at);
  *p = static_cast<char *>(at) + (offset - start);
  return ACL_SUCCESS;
}

ACL_API int aclrtIpcMemClose(const char *key) {
  Guard guard(state_mutex);
  auto it = imported.find(key);
  if (it == imported.end()) return ACL_SUCCESS;  // the exporter's own key
  munmap(it->second, ranges[it->second].bytes);
  ranges.erase(it->second);
  imported.erase(it);
  return ACL_SUCCESS;
}

// ---- streams -----------------------------------------------------------------------------

ACL_API int aclrtCreateStream(void **stream) {
  int device = 0;
  if (int code = need_device(&device)) return code;
  Guard guard(state_mutex);
  *stream = new_stream(device);
  return ACL_SUCCESS;
}

ACL_API int aclrtCreateStreamWithConfig(void **stream, uint32_t, uint32_t) { return aclrtCreateStream(stream); }

ACL_API int aclrtDestroyStream(void *stream) {
  Stream *s = stream_of(stream);
  if (!s) return last_error;
  std::unique_ptr<Stream> dead;
  Guard guard(state_mutex);
  if (s->capture) return ascend_sim_error(ACL_ERROR_RT_STREAM_CAPTURED, "stream %d is capturing", s->id);
  if (default_streams[s->device] == s) default_streams[s->device] = nullptr;
  streams.erase(s);
  busy -= static_cast<int>(s->pending.size()) + (s->update ? 1 : 0);
  core_limits.erase({s, 0});
  core_limits.erase({s, 1});
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
  return ascend_sim_stream_host_access(stream, "a synchronisation with the stream");
}
ACL_API int aclrtSynchronizeStreamWithTimeout(void *stream, int32_t) { return aclrtSynchronizeStream(stream); }

ACL_API int aclrtSynchronizeDevice(void) {
  int device = 0;
  if (int code = need_device(&device)) return code;
  if (int code = not_while_capturing("a synchronisation with the device")) return code;
  Guard guard(state_mutex);
  for (Stream *s : streams) {
    if (s->device != device || s->capture) continue;
    if (int code = ascend_sim_stream_host_access(s, "a synchronisation with the device")) return code;
  }
  return ACL_SUCCESS;
}
ACL_API int aclrtSynchronizeDeviceWithTimeout(int32_t) { return aclrtSynchronizeDevice(); }

ACL_API int aclrtStreamQuery(void *stream, int *status) {
  Guard guard(state_mutex);
  Stream *s = stream_of(stream);
  if (!s) return last_error;
  if (s->capture) return ascend_sim_stream_host_access(stream, "a query of the stream");
  *status = s->pending.empty() ? 0 : 1;
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

// ---- events ------------------------------------------------------------------------------

ACL_API int aclrtCreateEventExWithFlag(void **event, uint32_t flags) {
  Event *e = new Event;
  e->flags = flags;
  Guard guard(state_mutex);
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
  if (!s->capture) return ACL_SUCCESS;
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

ACL_API int aclrtSynchronizeEvent(void *event) {
  Event *e = event_of(event);
  return e ? captured_event(e, "synchronisation with") : last_error;
}

ACL_API int aclrtQueryEventStatus(void *event, int *status) {
  Event *e = event_of(event);
  if (!e) return last_error;
  *status = 1;  // complete
  return captured_event(e, "query of");
}

ACL_API int aclrtQueryEventWaitStatus(void *event, int *status) {
  Event *e = event_of(event);
  if (!e) return last_error;
  *status = 0;  // complete
  return ACL_SUCCESS;
}

ACL_API int aclrtQueryEvent(void *event, int *status) {
  Event *e = event_of(event);
  if (!e) return last_error;
  *status = 0;  // complete
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

// ---- graphs ------------------------------------------------------------------------------

ACL_API int aclmdlRICaptureBegin(void *stream, int mode) {
  Stream *s = stream_of(stream);
  if (!s) return last_error;
  Guard guard(state_mutex);
  if (s->capture) return ascend_sim_error(ACL_ERROR_RT_STREAM_CAPTURED, "stream %d captures already", s->id);
  if (!s->pending.empty()) return blocked(s, "a capture");
  auto model = std::make_shared<Model>();
  model->id = ++next_model_id;
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

ACL_API int aclmdlRIExecuteAsync(void *model, void *stream) {
  ModelPtr m = model_of(model);
  Stream *s = stream_of(stream);
  if (!m || !s) return last_error;
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

// ---- single operators by name (aclop): descriptions exist, execution does not --------------

struct TensorDescription {
  int type;
  int format;
  std::vector<int64_t> shape;
};

ACL_API void *aclCreateTensorDesc(int type, int dims, const int64_t *shape, int format) {
  return new TensorDescription{type, format, std::vector<int64_t>(shape, shape + std::max(dims, 0))};
}
ACL_API void aclDestroyTensorDesc(const TensorDescription *d) { delete d; }
ACL_API int aclGetTensorDescType(const TensorDescription *d) { return d->type; }
ACL_API int aclGetTensorDescFormat(const TensorDescription *d) { return d->format; }
ACL_API size_t aclGetTensorDescNumDims(const TensorDescription *d) { return d->shape.size(); }
ACL_API int aclGetTensorDescDimV2(const TensorDescription *d, size_t index, int64_t *size) {
  if (index >= d->shape.size()) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "dimension %zu", index);
  *size = d->shape[index];
  return ACL_SUCCESS;
}
ACL_API void aclSetTensorDescName(TensorDescription *, const char *) {}
ACL_API int aclSetTensorFormat(TensorDescription *d, int format) {
  d->format = format;
  return ACL_SUCCESS;
}
ACL_API int aclSetTensorShape(TensorDescription *d, int dims, const int64_t *shape) {
  d->shape.assign(shape, shape + std::max(dims, 0));
  return ACL_SUCCESS;
}
ACL_API int aclSetTensorPlaceMent(TensorDescription *, int) { return ACL_SUCCESS; }
ACL_API void *aclCreateDataBuffer(void *data, size_t bytes) { return new Copy{data, nullptr, bytes, 0}; }
ACL_API void *aclGetDataBufferAddr(const Copy *buffer) { return buffer->dst; }
ACL_API size_t aclGetDataBufferSizeV2(const Copy *buffer) { return buffer->bytes; }
ACL_API int aclDestroyDataBuffer(const Copy *buffer) {
  delete buffer;
  return ACL_SUCCESS;
}
ACL_API void *aclopCreateAttr(void) { return new int(0); }
ACL_API void aclopDestroyAttr(const int *attribute) { delete attribute; }
ACL_API int aclopSetAttrBool(void *, const char *, uint8_t) { return ACL_SUCCESS; }
ACL_API int aclopSetAttrDataType(void *, const char *, int) { return ACL_SUCCESS; }
ACL_API int aclopSetAttrFloat(void *, const char *, float) { return ACL_SUCCESS; }
ACL_API int aclopSetAttrInt(void *, const char *, int64_t) { return ACL_SUCCESS; }
ACL_API int aclopSetAttrString(void *, const char *, const char *) { return ACL_SUCCESS; }
ACL_API int aclopSetAttrListBool(void *, const char *, int, const uint8_t *) { return ACL_SUCCESS; }
ACL_API int aclopSetAttrListFloat(void *, const char *, int, const float *) { return ACL_SUCCESS; }
ACL_API int aclopSetAttrListInt(void *, const char *, int, const int64_t *) { return ACL_SUCCESS; }
ACL_API int aclopSetAttrListListInt(void *, const char *, int, const int *, const int64_t *const *) {
  return ACL_SUCCESS;
}
ACL_API int aclopCompileAndExecuteV2(const char *type, ...) {
  std::string name = std::string("the device operator '") + (type ? type : "?") + "' (aclopCompileAndExecuteV2)";
  return ascend_sim_unimplemented(name.c_str());
}

// ---- logging and profiling hooks: no one listens -----------------------------------------------

ACL_API void aclAppLog(int, const char *, const char *, uint32_t, const char *, ...) {}
ACL_API int aclmdlInitDump(void) { return ACL_SUCCESS; }
ACL_API int aclmdlFinalizeDump(void) { return ACL_SUCCESS; }
ACL_API int MsprofRegisterCallback(uint32_t, void *) { return 0; }
ACL_API uint64_t MsprofGetHashId(const char *text, size_t length) {
  uint64_t hash = 1469598103934665603u;
  for (size_t i = 0; i < length; ++i) hash = (hash ^ static_cast<unsigned char>(text[i])) * 1099511628211u;
  return hash;
}
ACL_API uint64_t MsprofSysCycleTime(void) { return static_cast<uint64_t>(now()); }
ACL_API int MsprofReportApi(uint32_t, const void *) { return 0; }
ACL_API int MsprofReportCompactInfo(uint32_t, const void *, uint32_t) { return 0; }
ACL_API int MsprofReportAdditionalInfo(uint32_t, const void *, uint32_t) { return 0; }
