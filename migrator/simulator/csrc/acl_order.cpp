// SPDX-License-Identifier: Apache-2.0
//
// The order of work on a device, and what breaks it; see acl_order.h.
#include "acl_guard.h"
#include "acl_order.h"
#include "acl_stream.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace acl_sim {

namespace {

enum class Watch { kOff, kReport, kError };

Watch wanted() {
  const char *text = getenv("ASCEND_SIM_RACES");
  if (!text || !*text || !strcmp(text, "report")) return Watch::kReport;
  return strcmp(text, "error") ? Watch::kOff : Watch::kError;
}

std::atomic<bool> off{false};

Watch watch() {
  static const Watch w = wanted();
  return off.load(std::memory_order_relaxed) ? Watch::kOff : w;
}

struct Progress {
  uint64_t issued = 0;
  uint64_t done = 0;  // that the host knows of
  Order known;        // of other streams, that came before what is issued next
};

// A copy between the host and a device that the host has not waited for.
struct Copy {
  Stream *stream;
  int32_t stream_id;
  uint64_t number;
  char *host;
  char *device;
  size_t bytes;
  uint64_t hash;                 // of the source, for a copy to the device
  uint64_t launches;             // of this process when it was made
  std::unique_ptr<char[]> data;  // what the target gets, for a copy to the host
  void *held;                    // keeps the host memory from being used again
  void (*release)(void *);
  int (*shared)(void *);  // whether the program still has that memory
  std::string place;
  bool to_host;
  std::string spoiled = {};  // what became of its source before it had been read
  bool used = false;  // by the host, which has been said
};

struct Access {
  Stream *stream = nullptr;
  int32_t stream_id = 0;
  uint64_t number = 0;
  std::string what;
  std::string place;  // of streams beside the first, which work little
};

// Device memory from one address to another, by who used it last.
struct Use {
  char *end;
  bool has_write = false;
  Access write;
  std::vector<Access> reads;  // since, one a stream
};

constexpr size_t kMostCopies = 256;
constexpr size_t kMostUses = 20000;
constexpr size_t kHashedWhole = size_t{16} << 20;
constexpr unsigned char kPoison = 0xff;

std::map<Stream *, Progress> &progress = *new std::map<Stream *, Progress>;
std::list<Copy> &copies = *new std::list<Copy>;
std::map<char *, Use> &uses = *new std::map<char *, Use>;
std::atomic<int> watched{0};  // pending copies, and whether several streams work
std::atomic<bool> several{false};
Stream *only = nullptr;
std::string unreported;
std::set<std::string> &told = *new std::set<std::string>;
std::atomic<uint64_t> launches{0};
void (*site)(char *, size_t) = nullptr;
std::atomic<void *> first{nullptr};  // the stream that worked first
// Done copies of this thread, which are looked at without the state's lock; and what kept
// their host memory, which is let go where no lock of torch_npu's can be held.
thread_local std::vector<Copy> finished;
std::vector<std::pair<void (*)(void *), void *>> &held = *new std::vector<std::pair<void (*)(void *), void *>>;

std::string here(bool named) {
  char text[512] = "";
  if (named && site) site(text, sizeof text);
  return *text ? text : named ? "a place without Python" : "an event that was asked whether it is done";
}

// Sixty-four bits over all bytes; over the ends and a word of each page where there are many.
uint64_t hash_of(const char *p, size_t bytes) {
  uint64_t h[4] = {1, 2, 3, bytes};
  auto add = [&](const char *from, size_t n) {
    size_t i = 0;
    for (; i + 32 <= n; i += 32)
      for (int lane = 0; lane < 4; ++lane) {
        uint64_t word;
        memcpy(&word, from + i + 8 * lane, 8);
        h[lane] = (h[lane] ^ word) * 0x9e3779b97f4a7c15u;
      }
    for (; i < n; ++i) h[0] = (h[0] ^ static_cast<unsigned char>(from[i])) * 0x9e3779b97f4a7c15u;
  };
  if (bytes <= kHashedWhole) {
    add(p, bytes);
  } else {
    for (size_t at = 0; at + 32 <= bytes; at += 4096) add(p + at, 32);
    add(p + bytes - 4096, 4096);
  }
  uint64_t all = 0;
  for (uint64_t lane : h) all = (all ^ (lane >> 29) ^ lane) * 0xbf58476d1ce4e5b9u;
  return all;
}

void found(const std::string &text) {
  Guard guard(state_mutex);
  if (!told.insert(text).second) return;
  fprintf(stderr, "ascend simulator: race: %s\n", text.c_str());
  fflush(stderr);
  if (watch() == Watch::kError && unreported.empty()) unreported = text;
}

std::string named(const Copy &c) {
  return std::string(c.to_host ? "the copy to the host" : "the copy to the device") + " at " + c.place +
         " (non_blocking, stream " + std::to_string(c.stream_id) + ", " + std::to_string(c.bytes) + " bytes)";
}

// The host uses memory that a copy has still to fill.
void used_too_early(const char *p, bool write, bool python) {
  std::string copy;
  {
    Guard guard(state_mutex);
    for (Copy &c : copies) {
      if (!c.to_host || p < c.host || p >= c.host + c.bytes || c.used) continue;
      c.used = true;
      copy = named(c);
      break;
    }
  }
  // What else lies on the page may be used.
  if (copy.empty()) return;
  found(std::string("host memory was ") + (write ? "written" : "read") + " at " +
        (python ? here(true) : "a thread without Python") + " while " + copy +
        " was still to fill it; nothing had waited for that copy");
}

// A copy to the host whose source is changed has gone wrong if anybody is to see its target: the
// workers of vLLM that hand nothing on let go of both while the copy runs. Whether that copy is
// still pending.
bool spoil(const Access &read, const std::string &text) {
  for (Copy &c : copies) {
    if (!c.to_host || c.stream != read.stream || c.number != read.number + 1) continue;
    if (c.spoiled.empty()) c.spoiled = text;
    return true;
  }
  return false;
}

// The host has waited for it: the source was left alone, or the target gets what it should.
void finish(Copy &c, bool asks) {
  if (!c.to_host) {
    if (hash_of(c.host, c.bytes) == c.hash) return;
    found("host memory was changed while " + named(c) + " was still to read it; nothing waited for that copy before " +
          here(asks));
    // What a device may have read, where nothing has used the target yet.
    if (ascend_sim_deferring()) return;
    if (launches.load() == c.launches && ascend_sim_device_range(c.device, c.bytes)) memcpy(c.device, c.host, c.bytes);
    return;
  }
  unguard_pages(c.host, c.bytes);
  if (!c.spoiled.empty() && c.shared(c.held)) found(c.spoiled);
  if (!c.data) return;  // it fills its target by itself
  // Where the pages could not be guarded: by what it holds.
  for (size_t i = 0; i < c.bytes && !c.used; ++i) {
    if (static_cast<unsigned char>(c.host[i]) == kPoison) continue;
    found("host memory was written while " + named(c) +
          " was still to fill it; nothing waited for that copy before " + here(asks));
    break;
  }
  memcpy(c.host, c.data.get(), c.bytes);
}

// Take a copy out, to be looked at by order_settle of this thread.
void take(std::list<Copy>::iterator at) {
  finished.push_back(std::move(*at));
  copies.erase(at);
  --watched;
}

bool before(const Access &first, Stream *s) {
  if (first.stream == s) return true;
  auto own = progress.find(first.stream);
  if (own == progress.end() || own->second.done >= first.number) return true;
  const Order &known = progress[s].known;
  auto it = known.find(first.stream);
  return it != known.end() && it->second >= first.number;
}

std::string conflict(const Access &first, const char *did, Stream *s, const char *operation, bool write,
                     size_t bytes) {
  return std::string(operation) + " on stream " + std::to_string(s->id) + (write ? " writes " : " reads ") +
         std::to_string(bytes) + " bytes of device memory that " + first.what + " " + did + " on stream " +
         std::to_string(first.stream_id) + (first.place.empty() ? "" : " at " + first.place) +
         "; nothing orders the two: no wait_stream, no event, no record_stream before the memory was let go, no "
         "synchronisation. The later is at ";
}

}  // namespace

Order order_of(Stream *s) {
  Progress &p = progress[s];
  Order all = p.known;
  all[s] = p.issued;
  return all;
}

uint64_t order_issue(Stream *s) { return ++progress[s].issued; }

void order_wait(Stream *s, const Order &before) {
  Order &known = progress[s].known;
  for (const auto &[stream, number] : before) {
    if (stream == s || !progress.count(stream)) continue;
    uint64_t &mine = known[stream];
    mine = std::max(mine, number);
  }
}

void order_done(const Order &done) {
  for (const auto &[stream, number] : done) {
    auto it = progress.find(stream);
    if (it != progress.end()) it->second.done = std::max(it->second.done, number);
  }
  for (auto it = copies.begin(); it != copies.end();) {
    auto at = it++;
    if (progress[at->stream].done >= at->number) take(at);
  }
}

void order_settle(bool named) {
  while (!finished.empty()) {
    std::vector<Copy> now;
    now.swap(finished);
    for (Copy &c : now) {
      finish(c, named);
      Guard guard(state_mutex);
      if (c.release) held.emplace_back(c.release, c.held);
    }
  }
}

void order_forget(Stream *s) {
  auto it = progress.find(s);
  if (it == progress.end()) return;
  order_done(order_of(s));
  progress.erase(s);
  for (auto &entry : progress) entry.second.known.erase(s);
  for (Event *e : events) e->order.erase(s);
  if (only == s) only = nullptr;
}

int order_error() {
  order_settle(true);
  std::string text;
  {
    Guard guard(state_mutex);
    if (unreported.empty()) return ACL_SUCCESS;
    text.swap(unreported);
  }
  return ascend_sim_error(ACL_ERROR_RT_INTERNAL_ERROR, "race: %s", text.c_str());
}

}  // namespace acl_sim

using namespace acl_sim;

void ascend_sim_set_races(int wanted) { off = wanted == 0; }

void ascend_sim_set_site(void (*find)(char *, size_t)) {
  Guard guard(state_mutex);
  site = find;
}

int ascend_sim_watched(void) { return watched.load(std::memory_order_relaxed); }
int ascend_sim_several_streams(void) { return several.load(std::memory_order_relaxed); }

void ascend_sim_launch(void *stream) {
  launches.fetch_add(1, std::memory_order_relaxed);
  static std::atomic<void *> last{nullptr};
  if (stream && !first.load(std::memory_order_relaxed)) first = stream;
  if (!stream || several || last.load(std::memory_order_relaxed) == stream) return;
  Guard guard(state_mutex);
  Stream *s = stream_of(stream);
  if (!s || watch() == Watch::kOff) return;
  if (only && only != s && only->device == s->device && !several.exchange(true)) ++watched;
  only = s;
  last.store(stream);
}

void ascend_sim_host_memory_ready(const void *host, size_t bytes) {
  if (!ascend_sim_watched()) return;
  {
    Guard guard(state_mutex);
    const char *at = static_cast<const char *>(host);
    for (auto it = copies.begin(); it != copies.end();) {
      auto old = it++;
      if (old->host < at + bytes && at < old->host + old->bytes) take(old);
    }
  }
  order_settle(true);
}

void ascend_sim_copy_pending(void *stream, void *host, void *device, size_t bytes, int to_host, int late,
                             void *keep, void (*release)(void *), int (*shared)(void *)) {
  std::vector<std::pair<void (*)(void *), void *>> unused;
  {
    Guard guard(state_mutex);
    unused.swap(held);
  }
  for (auto &[drop, what] : unused) drop(what);
  if (watch() == Watch::kOff || bytes == 0) return release(keep);
  std::string place = here(true);
  {
    Guard guard(state_mutex);
    Stream *s = stream_of(stream);
    if (!s) return release(keep);
    if (copies.size() >= kMostCopies) take(copies.begin());
    char *at = static_cast<char *>(host);
    Copy c{s,  s->id, ++progress[s].issued, at,      static_cast<char *>(device), bytes, 0, launches.load(),
           {}, keep,  release,              shared, place,              to_host != 0};
    if (to_host) {
      if (!late) {
        c.data.reset(new char[bytes]);
        memcpy(c.data.get(), at, bytes);
        memset(at, kPoison, bytes);
      }
      guard_by(used_too_early);
      guard_pages(at, bytes);
    } else {
      c.hash = hash_of(at, bytes);
    }
    copies.push_back(std::move(c));
    ++watched;
  }
  order_settle(true);
}

int ascend_sim_stream_done(void *stream) {
  {
    Guard guard(state_mutex);
    Stream *s = stream_of(stream);
    if (!s) return last_error;
    order_done(order_of(s));
  }
  return order_error();
}

int ascend_sim_device_done(int device) {
  {
    Guard guard(state_mutex);
    for (Stream *s : streams)
      if (s->device == device) order_done(order_of(s));
  }
  return order_error();
}

int ascend_sim_access(void *stream, const void *const *starts, const size_t *sizes, const int *writes, int count,
                      const char *operation) {
  std::vector<std::pair<std::string, Access>> conflicts;  // and the read that was too late
  const std::string place = stream == first.load(std::memory_order_relaxed) ? "" : here(true);
  {
    Guard guard(state_mutex);
    Stream *s = stream_of(stream);
    if (!s || s->capture || s->update) return ACL_SUCCESS;
    if (uses.size() > kMostUses) uses.clear();
    const Access now{s, s->id, ++progress[s].issued, operation, place};
    for (int i = 0; i < count; ++i) {
      char *start = const_cast<char *>(static_cast<const char *>(starts[i])), *end = start + sizes[i];
      if (start == end) continue;
      auto it = uses.lower_bound(start);
      if (it != uses.begin() && std::prev(it)->second.end > start) --it;
      bool kept = false;
      while (it != uses.end() && it->first < end) {
        Use &use = it->second;
        if (use.has_write && !before(use.write, s))
          conflicts.emplace_back(conflict(use.write, "wrote", s, operation, writes[i], sizes[i]), Access{});
        if (writes[i])
          for (const Access &read : use.reads)
            if (!before(read, s)) conflicts.emplace_back(conflict(read, "read", s, operation, true, sizes[i]), read);
        if (writes[i] && it->first >= start && use.end <= end) {
          it = uses.erase(it);
          continue;
        }
        if (!writes[i] && it->first == start && use.end == end) {
          kept = true;
          std::vector<Access> &reads = use.reads;
          reads.erase(std::remove_if(reads.begin(), reads.end(), [&](const Access &r) { return before(r, s); }),
                      reads.end());
          reads.push_back(now);
        }
        ++it;
      }
      // A use of the same start and another end is replaced: what it said of the rest is lost.
      if (writes[i]) uses[start] = Use{end, true, now, {}};
      else if (!kept) uses[start] = Use{end, false, {}, {now}};
    }
  }
  if (!conflicts.empty()) {
    const std::string later = here(true);
    for (const auto &[text, read] : conflicts) {
      bool pending = false;
      if (read.stream) {
        Guard guard(state_mutex);
        pending = spoil(read, text + later);
      }
      if (!pending) found(text + later);
    }
  }
  return order_error();
}
