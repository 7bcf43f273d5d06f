// SPDX-License-Identifier: Apache-2.0
//
// Work that runs late; see acl_defer.h.
//
// Locks: that of the device, held while work is guessed or run, comes before the state's. What
// waits for it lets go of Python's lock, for work may be Python's.
#include "acl_defer.h"
#include "acl_guard.h"
#include "acl_memory.h"
#include "acl_stream.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace acl_sim {

namespace {

struct Work {
  Stream *stream;
  uint64_t number;
  Order before;
  int (*run)(void *);
  void *argument;
  void (*drop)(void *);
  bool to_host;       // it changes the host's memory: never guessed
  uint64_t issued;    // in the order of issue over all streams
};

constexpr size_t kGranule = size_t{64} << 10;
constexpr size_t kMostGranules = 16384;  // each divides the mapping, and a process has 65,530
constexpr size_t kMostWork = 4096;

struct Seed {
  bool set;
  uint64_t value;
};

Seed seed() {
  static const Seed s = [] {
    const char *text = getenv("ASCEND_SIM_ORDER");
    return Seed{text && *text, text ? strtoull(text, nullptr, 10) : 0};
  }();
  return s;
}

std::recursive_mutex &device_mutex = *new std::recursive_mutex;
std::mutex &page_mutex = *new std::mutex;
std::map<Stream *, std::deque<Work>> &queued = *new std::map<Stream *, std::deque<Work>>;
size_t queued_count = 0;
uint64_t issued_count = 0, waits = 0;
struct Kept {
  size_t bytes;
  std::unique_ptr<char[]> old;
};
std::map<char *, Kept> &kept = *new std::map<char *, Kept>;
std::vector<Work> &over = *new std::vector<Work>;  // to be dropped where no lock of torch_npu's is held
std::atomic<bool> open{false};        // pages are kept before they are written
std::atomic<int> guessing{0};         // a thread guesses work
int direct = 0;                       // threads that do what cannot be taken back
thread_local int depth = 0;           // of guesses of this thread

template <class F>
F python(const char *name) {
  return reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
}

void lock() {
  if (device_mutex.try_lock()) return;
  static const auto holds = python<int (*)()>("PyGILState_Check");
  static const auto save = python<void *(*)()>("PyEval_SaveThread");
  static const auto restore = python<void (*)(void *)>("PyEval_RestoreThread");
  static const auto running = python<int (*)()>("Py_IsInitialized");
  if (!holds || !running || !running() || !holds()) {
    device_mutex.lock();
    return;
  }
  void *state = save();
  device_mutex.lock();
  restore(state);
}

void unlock() { device_mutex.unlock(); }

struct Locked {
  Locked() { lock(); }
  ~Locked() { unlock(); }
};

template <class F>
void each_arena(F f) {
  for (int d = 0; d < config().count; ++d) {
    char *base = arenas[d].base.load();
    if (!base) continue;
    size_t end = 0;
    {
      Guard guard(state_mutex);
      if (!arenas[d].live.empty()) end = arenas[d].live.rbegin()->first + arenas[d].live.rbegin()->second;
    }
    if (end) f(base, round_up(end, kGranule));
  }
}

void open_window() {
  if (open.exchange(true)) return;
  guard_by(nullptr);  // listens
  each_arena([](char *base, size_t bytes) { mprotect(base, bytes, PROT_READ); });
  for (auto &[start, bytes] : mappings()) mprotect(start, bytes, PROT_READ);
}

void close_window() {
  if (!open.exchange(false)) return;
  for (int d = 0; d < config().count; ++d)
    if (char *base = arenas[d].base.load()) mprotect(base, arenas[d].span, PROT_READ | PROT_WRITE);
  for (auto &[start, bytes] : mappings()) mprotect(start, bytes, PROT_READ | PROT_WRITE);
}

// The device memory around `p` that is protected as a whole; false where it is none.
bool region_of(const void *p, char **start, size_t *bytes) {
  const int device = arena_of(p);
  if (device < 0) return mapping_of(p, start, bytes);
  *start = arenas[device].base.load();
  *bytes = arenas[device].span;
  return true;
}

// Take back what has been guessed.
void take_back() {
  close_window();
  std::lock_guard<std::mutex> pages(page_mutex);
  for (auto &[at, was] : kept) {
    char *start = nullptr;
    size_t bytes = 0;
    // What was unmapped since has nothing to be taken back.
    if (region_of(at, &start, &bytes)) memcpy(at, was.old.get(), was.bytes);
  }
  kept.clear();
}

void guess(const Work &w) {
  if (w.to_host) return;
  ++guessing;
  ++depth;
  w.run(w.argument);  // whether it works is known when it runs for good
  --depth;
  --guessing;
}

uint64_t drawn(uint64_t *state) {
  uint64_t x = *state += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// What has to run before all of `done` has: of each stream the number of the last.
Order needed(const Order *done) {
  Order need;
  for (auto &[stream, works] : queued) {
    if (!done) {
      need[stream] = works.back().number;
    } else if (auto it = done->find(stream); it != done->end() && works.front().number <= it->second) {
      need[stream] = it->second;
    }
  }
  for (bool more = done != nullptr; more;) {
    more = false;
    for (auto &[stream, works] : queued) {
      auto limit = need.find(stream);
      if (limit == need.end()) continue;
      const uint64_t last = limit->second;
      for (const Work &w : works) {
        if (w.number > last) break;
        for (const auto &[other, number] : w.before) {
          auto there = queued.find(other);
          if (other == stream || there == queued.end() || there->second.front().number > number) continue;
          uint64_t &known = need[other];
          if (known < number) known = number, more = true;
        }
      }
    }
  }
  return need;
}

bool ready(const Work &w) {
  for (const auto &[other, number] : w.before) {
    auto there = queued.find(other);
    if (other != w.stream && there != queued.end() && there->second.front().number <= number) return false;
  }
  return true;
}

// Run for good what is before `done`, or all, in an order by the seed.
int run_for_good(const Order *done) {
  if (!queued_count) return ACL_SUCCESS;
  const Order need = needed(done);
  if (need.empty()) return ACL_SUCCESS;
  take_back();
  uint64_t state = seed().value * 0x9e3779b97f4a7c15u + ++waits;
  // A device may do no more than it has to, or all that it can; and one stream may be ahead of
  // the others, or take turns with them.
  const bool lazy = drawn(&state) % 3 != 0, turns = drawn(&state) % 3 == 0;
  std::map<int32_t, uint64_t> rank;  // by the stream's number, so that a seed means the same again
  std::map<int32_t, Stream *> by_id;
  for (auto &[stream, works] : queued) by_id[stream->id] = stream;
  for (auto &[id, stream] : by_id) rank[id] = drawn(&state);
  int error = ACL_SUCCESS;
  std::string message;
  while (true) {
    bool missing = false;
    Stream *best = nullptr;
    uint64_t least = 0;
    for (auto &[id, stream] : by_id) {
      auto it = queued.find(stream);
      if (it == queued.end()) continue;
      auto limit = need.find(stream);
      const bool wanted = limit != need.end() && it->second.front().number <= limit->second;
      missing |= wanted;
      const uint64_t own = turns ? drawn(&state) : rank[id];
      if ((!wanted && lazy) || !ready(it->second.front())) continue;
      if (!best || own < least) best = stream, least = own;
    }
    if (!missing || !best) break;
    auto it = queued.find(best);
    Work w = std::move(it->second.front());
    it->second.pop_front();
    if (it->second.empty()) queued.erase(it);
    --queued_count;
    ++depth;
    const int code = w.run(w.argument);
    --depth;
    if (code && !error) {
      error = code;
      message = last_message;
    }
    over.push_back(std::move(w));
  }
  if (queued_count) {
    open_window();
    std::map<uint64_t, const Work *> rest;
    for (auto &[stream, works] : queued)
      for (const Work &w : works) rest[w.issued] = &w;
    for (auto &[number, w] : rest) guess(*w);
  }
  if (!error) return ACL_SUCCESS;
  return ascend_sim_error(error, "%s", message.c_str());
}

}  // namespace

Direct::Direct() { ascend_sim_direct_begin(); }
Direct::~Direct() { ascend_sim_direct_end(); }

int defer_wait(const Order *done) {
  if (!seed().set || depth) return ACL_SUCCESS;
  Locked locked;
  return run_for_good(done);
}

bool defer_try(const Order &done) {
  if (!seed().set) return true;
  // What asks in the midst of an operator, as the allocator does, can be told only what is so.
  if (depth) return needed(&done).empty();
  if (!device_mutex.try_lock()) return false;
  run_for_good(&done);
  unlock();
  return true;
}

bool defer_fault(const void *p) {
  if (!seed().set) return false;
  char *start = nullptr;
  size_t bytes = 0;
  if (!region_of(p, &start, &bytes)) return false;
  if (!guessing.load()) {
    // Nobody guesses: what writes is no work of ours, and is not to be taken back.
    if (open.load()) Direct();
    return true;
  }
  std::lock_guard<std::mutex> pages(page_mutex);
  const size_t offset = static_cast<size_t>(static_cast<const char *>(p) - start) / kGranule * kGranule;
  const size_t size = std::min(kGranule, bytes - offset);
  char *at = start + offset;
  if (!open.load() || kept.count(at)) return true;  // another thread was first
  std::unique_ptr<char[]> old(new char[size]);
  memcpy(old.get(), at, size);
  kept[at] = {size, std::move(old)};
  mprotect(at, size, PROT_READ | PROT_WRITE);
  return true;
}

}  // namespace acl_sim

using namespace acl_sim;

int ascend_sim_deferring(void) { return seed().set; }

void ascend_sim_direct_begin(void) {
  if (!seed().set || depth) return;
  Locked locked;
  run_for_good(nullptr);
  take_back();
  ++direct;
}

void ascend_sim_direct_end(void) {
  if (!seed().set || depth) return;
  Locked locked;
  --direct;
}

void ascend_sim_host_memory_filled(void *p, size_t bytes) { unguard_pages(static_cast<char *>(p), bytes); }

int ascend_sim_work_begin(void *stream) {
  if (!seed().set || depth) return 0;
  lock();
  std::vector<Work> done;
  done.swap(over);
  if (direct || ascend_sim_streams_busy() || !stream_of(stream)) {
    run_for_good(nullptr);
    take_back();
    unlock();
  } else {
    if (kept.size() > kMostGranules || queued_count > kMostWork) run_for_good(nullptr), take_back();
    open_window();
    ++guessing;
    ++depth;
  }
  const bool guessed = depth > 0;
  for (Work &w : done)
    if (w.drop) w.drop(w.argument);
  return guessed;
}

void ascend_sim_work_end(void *stream, int (*run)(void *), void *argument, void (*drop)(void *), int to_host) {
  --depth;
  --guessing;
  if (run) {
    Guard guard(state_mutex);
    Stream *s = stream_of(stream);
    Work w{s, 0, order_of(s), run, argument, drop, to_host != 0, ++issued_count};
    w.before.erase(s);
    w.number = order_issue(s);
    queued[s].push_back(std::move(w));
    ++queued_count;
  }
  unlock();
}

int ascend_sim_work_wait(void *stream) {
  if (!seed().set || depth) return ACL_SUCCESS;
  Order all;
  {
    Guard guard(state_mutex);
    Stream *s = stream ? stream_of(stream) : nullptr;
    if (s) all = order_of(s);
  }
  return defer_wait(stream ? &all : nullptr);
}
