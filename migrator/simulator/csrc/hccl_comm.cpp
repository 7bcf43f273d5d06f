// SPDX-License-Identifier: Apache-2.0
#include "hccl_comm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "ascend_sim.h"
#include "hccl_reduce.h"

namespace hccl_sim {

namespace {

constexpr char kMagic[16] = "ascend-sim-hccl";
constexpr char kMemoryFile[] = "/memfd:ascend-sim-hccl";
constexpr char kOutOfDate[] = "HCCL: this root info is out of date: its communicator has been set "
                              "up or given up already";
constexpr uint64_t kPage = 4096;
constexpr uint64_t kStageBytes = 1 << 20;         // what a rank gives in one round
constexpr uint64_t kSplitBytes = 32 << 10;        // above it the ranks share a reduction
constexpr uint64_t kFragmentBytes = 8 << 20;      // of a message, moved at once
constexpr uint32_t kRingFragments = 512;
constexpr uint32_t kOffers = 64;                  // sub-communicators under creation at once
constexpr uint32_t kMaxRanks = 1024;
constexpr int kPollMs = 50;                       // longest sleep without looking around
constexpr double kLifeCheckSeconds = 0.1;

enum SlotState : uint32_t { kEmpty, kJoining, kJoined, kLeft };
enum FailState : uint32_t { kNoFailure, kFailureBeingWritten, kFailed };

uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }
uint64_t rounds_for(uint64_t total, uint64_t each) { return (total + each - 1) / each; }

double now_seconds() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// The futexes lie in memory shared between processes: not FUTEX_PRIVATE.
void futex_wait(std::atomic<uint32_t> *word, uint32_t seen, int milliseconds) {
  timespec limit = {milliseconds / 1000, (long)(milliseconds % 1000) * 1000000L};
  syscall(SYS_futex, reinterpret_cast<uint32_t *>(word), FUTEX_WAIT, seen, &limit, nullptr, 0);
}

void futex_wake_all(std::atomic<uint32_t> *word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t *>(word), FUTEX_WAKE, INT32_MAX, nullptr, nullptr,
          0);
}

// Start time of a process in clock ticks since boot; 0 if it is dead. A zombie is
// dead: nothing of it runs any more.
uint64_t process_start_time(pid_t pid) {
  char path[64], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  const ssize_t length = read(fd, text, sizeof text - 1);
  close(fd);
  if (length <= 0) return 0;
  text[length] = 0;
  // The name in parentheses may hold anything: fields are counted from its end.
  const char *field = strrchr(text, ')');
  if (!field) return 0;
  char state = 0;
  unsigned long long start = 0;
  if (sscanf(field + 1,
             " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
             &state, &start) != 2)
    return 0;
  return state == 'Z' || state == 'X' ? 0 : start;
}

HcclResult move_bytes(int fd, char *buffer, uint64_t bytes, uint64_t offset, bool out) {
  while (bytes > 0) {
    const ssize_t n = out ? pwrite(fd, buffer, bytes, (off_t)offset)
                          : pread(fd, buffer, bytes, (off_t)offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return out ? HCCL_E_MEMORY : HCCL_E_INTERNAL;
    buffer += n;
    bytes -= (uint64_t)n;
    offset += (uint64_t)n;
  }
  return HCCL_SUCCESS;
}

uint64_t env_bytes(const char *name, uint64_t fallback) {
  const char *text = getenv(name);
  if (!text || !*text) return fallback;
  char *end = nullptr;
  const unsigned long long value = strtoull(text, &end, 10);
  return *end || value == 0 ? fallback : value;
}

// Bytes sent to one rank that it has not received yet, before a send waits.
uint64_t send_buffer_bytes() {
  static const uint64_t bytes = env_bytes("ASCEND_SIM_HCCL_SEND_BUFFER", 1ull << 30);
  return bytes;
}

struct CreatedSegments {
  std::mutex mutex;
  std::set<std::pair<uint64_t, uint64_t>> ids;
};

// Never destroyed: torch_npu destroys communicators from static destructors too.
CreatedSegments &created_segments() {
  static CreatedSegments *const created = new CreatedSegments;
  return *created;
}

}  // namespace

struct Fragment {
  Call call;
  uint64_t offset;  // in the memory file
  uint64_t bytes;
};

struct Ring {
  alignas(64) std::atomic<uint64_t> head;  // fragments ever put in; only the sender writes
  alignas(64) std::atomic<uint64_t> tail;  // fragments ever taken out; only the receiver writes
  alignas(64) std::atomic<uint64_t> bytes_in_flight;
  Fragment fragments[kRingFragments];
};

struct RankSlot {
  alignas(64) std::atomic<uint32_t> state;
  int32_t pid;
  int32_t device;
  int32_t physical_device;
  uint64_t start_time;
  char machine[64];
  std::atomic<uint32_t> is_waiting;
  Call waiting;  // what the rank waits in: for messages only, may be torn
  alignas(64) std::atomic<uint64_t> arrivals;
  alignas(64) std::atomic<uint32_t> transfer_event;  // something changed for its sends or receives
  Call calls[2];
};

// The place where the first member of a sub-communicator says where its segment is.
struct Offer {
  std::atomic<uint32_t> state;  // 0 free, 1 being written, 2 offered
  std::atomic<uint32_t> takers_left;
  uint64_t id, members_hash, generation;
  SegmentAddress address;
};

// Fixed part of the segment. The memory starts as zeros, which is a valid state of
// all of it, so that whoever comes first needs no ceremony.
struct Segment {
  char magic[16];
  uint64_t id[2];
  std::atomic<uint32_t> n_ranks;
  std::atomic<uint32_t> event;  // someone joined, all arrived, or the communicator failed
  std::atomic<uint64_t> arena_end;
  std::atomic<uint32_t> fail_state;
  int32_t fail_code;
  char fail_message[1600];
  Offer offers[kOffers];
};

namespace {

struct Layout {
  uint64_t slots, counts, rings, stages, results, end;

  explicit Layout(uint64_t n) {
    slots = round_up(sizeof(Segment), kPage);
    counts = round_up(slots + n * sizeof(RankSlot), kPage);
    rings = round_up(counts + 2 * n * 2 * n * sizeof(uint64_t), kPage);
    stages = round_up(rings + n * n * sizeof(Ring), kPage);
    results = stages + 2 * n * kStageBytes;
    end = results + 2 * kStageBytes;
  }
};

}  // namespace

std::string format(const char *pattern, ...) {
  char text[1500];
  va_list arguments;
  va_start(arguments, pattern);
  vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

HcclResult report(HcclResult code, const std::string &message) {
  ascend_sim_error(code, "%s", message.c_str());
  return code;
}

double time_limit_seconds() {
  static const double seconds = [] {
    const char *text = getenv("ASCEND_SIM_HCCL_TIMEOUT");
    if (text && *text) {
      char *end = nullptr;
      const double value = strtod(text, &end);
      if (!*end && value > 0) return value;
      fprintf(stderr,
              "ascend simulator: HCCL: ASCEND_SIM_HCCL_TIMEOUT=%s is not a number of seconds; "
              "using 120\n", text);
    }
    return 120.0;
  }();
  return seconds;
}

std::string Call::text() const {
  static const char *const names[] = {
      "nothing",         "HcclAllReduce",      "HcclReduce",  "HcclBroadcast",  "HcclAllGather",
      "HcclAllGatherV",  "HcclReduceScatter",  "HcclReduceScatterV", "HcclScatter",
      "HcclAlltoAll",    "HcclAlltoAllV",      "HcclBarrier", "HcclSend",       "HcclRecv"};
  if ((uint32_t)op >= sizeof names / sizeof *names) return "an unknown call";
  std::string text = names[(uint32_t)op];
  if (op == Op::kBarrier || op == Op::kNone) return text;
  const bool per_rank =
      op == Op::kAllGatherV || op == Op::kReduceScatterV || op == Op::kAllToAllV;
  text += "(";
  if (!per_rank) text += format("count=%llu, ", (unsigned long long)count);
  text += type_name(type);
  if (reduce_op != UINT32_MAX) text += std::string(", ") + reduce_name(reduce_op);
  if (peer != kNoRank) {
    const char *role = op == Op::kSend ? "to rank" : op == Op::kRecv ? "from rank" : "root";
    text += format(", %s %u", role, peer);
  }
  return text + ")";
}

// ---- the segment ------------------------------------------------------------

HcclResult Comm::create_segment(SegmentAddress *address) {
  const int fd = memfd_create("ascend-sim-hccl", MFD_CLOEXEC);
  if (fd < 0)
    return report(HCCL_E_SYSCALL,
                  format("HCCL: cannot create shared memory: %s", strerror(errno)));
  memset(address, 0, sizeof *address);
  memcpy(address->magic, kMagic, sizeof kMagic);
  snprintf(address->machine, sizeof address->machine, "%s", ascend_sim_machine());
  address->pid = getpid();
  address->fd = fd;
  address->start_time = process_start_time(address->pid);
  const bool has_id = getrandom(address->id, sizeof address->id, 0) == sizeof address->id;
  Segment *segment = nullptr;
  if (has_id && address->start_time && ftruncate(fd, sizeof(Segment)) == 0) {
    void *p = mmap(nullptr, sizeof(Segment), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p != MAP_FAILED) segment = static_cast<Segment *>(p);
  }
  if (!segment) {
    const int error = errno;
    close(fd);
    return report(HCCL_E_MEMORY,
                  format("HCCL: cannot set up shared memory: %s", strerror(error)));
  }
  memcpy(segment->magic, kMagic, sizeof kMagic);
  memcpy(segment->id, address->id, sizeof segment->id);
  munmap(segment, sizeof(Segment));
  CreatedSegments &created = created_segments();
  std::lock_guard<std::mutex> lock(created.mutex);
  created.ids.emplace(address->id[0], address->id[1]);
  return HCCL_SUCCESS;
}

void Comm::forget_segment(const SegmentAddress &address) {
  if (address.pid != getpid()) return;
  CreatedSegments &created = created_segments();
  std::lock_guard<std::mutex> lock(created.mutex);
  if (created.ids.erase({address.id[0], address.id[1]})) close(address.fd);
}

char *Comm::stage(uint32_t rank) const {
  return base_ + Layout(n_ranks_).stages + (half_ * n_ranks_ + rank) * kStageBytes;
}

char *Comm::result_stage() const { return base_ + Layout(n_ranks_).results + half_ * kStageBytes; }

RankSlot &Comm::slot(uint32_t rank) const {
  return reinterpret_cast<RankSlot *>(base_ + Layout(n_ranks_).slots)[rank];
}

Ring &Comm::ring(uint32_t source, uint32_t destination) const {
  return reinterpret_cast<Ring *>(base_ + Layout(n_ranks_).rings)[source * n_ranks_ + destination];
}

uint64_t *Comm::counts_row(uint32_t rank) const {
  uint64_t *counts = reinterpret_cast<uint64_t *>(base_ + Layout(n_ranks_).counts);
  return counts + (half_ * n_ranks_ + rank) * 2 * n_ranks_;
}

HcclResult Comm::join(const SegmentAddress &address, uint32_t n_ranks, uint32_t rank, int device,
                      const std::string &name, bool wait, std::shared_ptr<Comm> *out) {
  if (memcmp(address.magic, kMagic, sizeof kMagic) != 0)
    return report(HCCL_E_PARA,
                  "HCCL: this root info does not come from HcclGetRootInfo of the "
                  "simulator; do all ranks run under it?");
  if (n_ranks == 0 || n_ranks > kMaxRanks || rank >= n_ranks)
    return report(HCCL_E_PARA, format("HCCL: rank %u of %u is not possible (at most %u "
                                      "ranks)", rank, n_ranks, kMaxRanks));
  const int physical_device = ascend_sim_physical_device(device);
  if (physical_device < 0)
    return report(HCCL_E_PARA, format("HCCL: rank %u has no device: choose one by "
                                      "torch.npu.set_device before the first collective", rank));

  // The number may stand for another file of that process by now: look before opening.
  char path[64], target[64] = "";
  snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)address.pid, (int)address.fd);
  const bool root_lives = process_start_time(address.pid) == address.start_time;
  const ssize_t length = root_lives ? readlink(path, target, sizeof target - 1) : -1;
  const bool is_ours = length > 0 && strncmp(target, kMemoryFile, sizeof kMemoryFile - 1) == 0;
  if (root_lives && !is_ours && (length > 0 || errno == ENOENT))
    return report(HCCL_E_TCP_CONNECT, kOutOfDate);
  const int fd = is_ours ? open(path, O_RDWR | O_CLOEXEC) : -1;
  if (fd < 0)
    return report(HCCL_E_TCP_CONNECT,
                  format("HCCL: rank %u cannot reach the root of the communicator (pid %d): %s; "
                         "ranks must be processes of one user on one machine", rank,
                         (int)address.pid, root_lives ? strerror(errno) : "the process is gone"));

  std::shared_ptr<Comm> comm(new Comm);
  comm->fd_ = fd;
  comm->n_ranks_ = n_ranks;
  comm->rank_ = rank;
  comm->device_ = device;
  comm->owner_ = getpid();
  comm->name_ = name.empty() ? format("hccl_sim_%016llx", (unsigned long long)address.id[0]) : name;
  comm->sends_.resize(n_ranks);
  comm->recvs_.resize(n_ranks);

  // The first to come says how many ranks there are, and with it how long the file is.
  const Layout layout(n_ranks);
  void *header = mmap(nullptr, sizeof(Segment), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (header == MAP_FAILED)
    return report(HCCL_E_MEMORY,
                  format("HCCL: cannot map shared memory: %s", strerror(errno)));
  Segment *segment = static_cast<Segment *>(header);
  const bool same_segment = memcmp(segment->magic, kMagic, sizeof kMagic) == 0 &&
                            memcmp(segment->id, address.id, sizeof address.id) == 0;
  uint32_t agreed = 0;
  if (same_segment && segment->n_ranks.compare_exchange_strong(agreed, n_ranks)) agreed = n_ranks;
  munmap(header, sizeof(Segment));
  if (!same_segment)
    return report(HCCL_E_TCP_CONNECT, kOutOfDate);
  if (agreed != n_ranks)
    return report(HCCL_E_PARA, format("HCCL: rank %u joins a communicator of %u ranks, "
                                      "but another rank said %u", rank, n_ranks, agreed));
  // fallocate extends the file only, where ftruncate could cut off a fragment that a
  // rank which has already joined sent: the size is set while the file is shorter.
  struct stat status;
  if (fstat(fd, &status) != 0 ||
      ((uint64_t)status.st_size < layout.end &&
       fallocate(fd, 0, (off_t)layout.end - 1, 1) != 0))
    return report(HCCL_E_MEMORY,
                  format("HCCL: cannot size shared memory: %s", strerror(errno)));
  void *base = mmap(nullptr, layout.end, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (base == MAP_FAILED)
    return report(HCCL_E_MEMORY,
                  format("HCCL: cannot map shared memory: %s", strerror(errno)));
  comm->base_ = static_cast<char *>(base);
  comm->mapped_ = layout.end;
  comm->segment_ = reinterpret_cast<Segment *>(base);
  uint64_t unset = 0;
  comm->segment_->arena_end.compare_exchange_strong(unset, layout.end);

  RankSlot &mine = comm->slot(rank);
  uint32_t empty = kEmpty;
  if (!mine.state.compare_exchange_strong(empty, kJoining))
    return report(HCCL_E_PARA, format("HCCL: rank %u joins a second time (the first time "
                                      "in process %d)", rank, (int)mine.pid));
  mine.pid = comm->owner_;
  mine.start_time = process_start_time(comm->owner_);
  mine.device = device;
  mine.physical_device = physical_device;
  snprintf(mine.machine, sizeof mine.machine, "%s", ascend_sim_machine());
  mine.state.store(kJoined);
  comm->is_member_ = true;
  comm->notify(&comm->segment_->event);

  if (wait) {
    const auto joined = [&](uint32_t r) { return comm->slot(r).state.load() >= kJoined; };
    const auto all_joined = [&] {
      for (uint32_t r = 0; r < n_ranks; r++)
        if (!joined(r)) return false;
      return true;
    };
    comm->root_ = &address;
    const HcclResult result = comm->wait_until(
        &comm->segment_->event, all_joined, [&](uint32_t r) { return !joined(r); }, Call());
    comm->root_ = nullptr;
    if (result != HCCL_SUCCESS) return result;
    for (uint32_t a = 0; a < n_ranks; a++)
      for (uint32_t b = 0; b < a; b++) {
        const RankSlot &first = comm->slot(b), &second = comm->slot(a);
        if (first.physical_device == second.physical_device &&
            strncmp(first.machine, second.machine, sizeof first.machine) == 0)
          return comm->fail(
              HCCL_E_PARA,
              format("HCCL: ranks %u (pid %d) and %u (pid %d) of one communicator both "
                     "use device %d; give each rank its own device by torch.npu.set_device", b,
                     (int)first.pid, a, (int)second.pid, first.physical_device));
      }
  }
  *out = std::move(comm);
  return HCCL_SUCCESS;
}

Comm::~Comm() {
  leave();
  if (base_) munmap(base_, mapped_);
  if (fd_ >= 0) close(fd_);
}

void Comm::leave() {
  // A child made by fork() shares the memory, but is not the rank.
  if (owner_ != getpid() || !is_member_.exchange(false)) return;
  slot(rank_).state.store(kLeft);
  notify_everyone();
}

// ---- waiting and failing ------------------------------------------------------

void Comm::notify(std::atomic<uint32_t> *event) {
  event->fetch_add(1);
  futex_wake_all(event);
}

void Comm::notify_everyone() {
  notify(&segment_->event);
  for (uint32_t r = 0; r < n_ranks_; r++) notify(&slot(r).transfer_event);
}

bool Comm::has_failed() const { return segment_->fail_state.load() != kNoFailure; }

HcclResult Comm::shared_failure() {
  // The writer can be killed in the middle: then the reason is lost, not the failure.
  for (int i = 0; i < 1000 && segment_->fail_state.load() == kFailureBeingWritten; i++) usleep(100);
  if (segment_->fail_state.load() != kFailed)
    return report(HCCL_E_REMOTE, format("HCCL: communicator '%s' has failed", name_.c_str()));
  return report((HcclResult)segment_->fail_code,
                std::string(segment_->fail_message,
                            strnlen(segment_->fail_message, sizeof segment_->fail_message)));
}

HcclResult Comm::fail(HcclResult code, const std::string &message) {
  uint32_t none = kNoFailure;
  if (segment_->fail_state.compare_exchange_strong(none, kFailureBeingWritten)) {
    segment_->fail_code = code;
    snprintf(segment_->fail_message, sizeof segment_->fail_message, "%s", message.c_str());
    segment_->fail_state.store(kFailed);
    notify_everyone();
  }
  return shared_failure();
}

HcclResult Comm::usable(const Call &call) {
  if (owner_ != getpid())
    return report(HCCL_E_UNAVAIL,
                  format("HCCL: %s in a process forked from rank %u of communicator '%s': "
                         "a communicator does not survive fork", call.text().c_str(), rank_,
                         name_.c_str()));
  if (!is_member_)
    return report(HCCL_E_UNAVAIL, format("HCCL: %s on communicator '%s' after "
                                         "HcclCommDestroy", call.text().c_str(), name_.c_str()));
  if (has_failed()) return shared_failure();
  return HCCL_SUCCESS;
}

std::string Comm::rank_text(uint32_t rank) const {
  const RankSlot &s = slot(rank);
  if (s.state.load() < kJoined) return format("rank %u", rank);
  return format("rank %u (pid %d, npu:%d)", rank, (int)s.pid, (int)s.device);
}

std::string Comm::gone_text(uint32_t rank) const {
  const RankSlot &s = slot(rank);
  const uint32_t state = s.state.load();
  if (state == kLeft) return "has destroyed the communicator";
  if (state == kJoined && process_start_time(s.pid) != s.start_time) return "died";
  return "";
}

std::string Comm::waiting_text(uint32_t rank) const {
  const RankSlot &s = slot(rank);
  if (s.state.load() < kJoined) return rank_text(rank) + " has not joined";
  if (s.is_waiting.load()) {
    const Call call = s.waiting;
    return rank_text(rank) + " waits in " + call.text();
  }
  return rank_text(rank) + " is not in a communication call";
}

namespace {

// When to look whether the others live, and when to give up.
struct Patience {
  double deadline = now_seconds() + time_limit_seconds();
  double next_check = now_seconds() + kLifeCheckSeconds / 5;

  bool time_to_check() {
    const double now = now_seconds();
    if (now < next_check) return false;
    next_check = now + kLifeCheckSeconds;
    return true;
  }
  bool over() const { return now_seconds() >= deadline; }
};

}  // namespace

HcclResult Comm::wait_until(std::atomic<uint32_t> *event, const Ready &ready,
                            const std::function<bool(uint32_t)> &missing, const Call &call) {
  // Mostly the others are on their way: give them the core before sleeping.
  for (int i = 0; i < 20; i++) {
    if (ready()) return HCCL_SUCCESS;
    sched_yield();
  }
  RankSlot &mine = slot(rank_);
  mine.waiting = call;
  mine.is_waiting.store(1);
  struct Clear {
    RankSlot &slot;
    ~Clear() { slot.is_waiting.store(0); }
  } clear{mine};

  const char *what = call.op == Op::kNone ? "to join the communicator" : "in";
  const std::string where = call.op == Op::kNone ? "" : " " + call.text();
  Patience patience;
  for (;;) {
    const uint32_t seen = event->load();
    if (ready()) return HCCL_SUCCESS;
    if (has_failed()) return shared_failure();
    if (!is_member_) return usable(call);
    if (patience.time_to_check()) {
      for (uint32_t r = 0; r < n_ranks_; r++) {
        if (!missing(r)) continue;
        const std::string gone = gone_text(r);
        // It may have arrived first and left or died then.
        if (gone.empty() || !missing(r)) continue;
        return fail(HCCL_E_REMOTE,
                    format("HCCL: %s %s while rank %u waited for it %s%s, communicator "
                           "'%s'", rank_text(r).c_str(), gone.c_str(), rank_, what, where.c_str(),
                           name_.c_str()));
      }
      if (root_ && process_start_time(root_->pid) != root_->start_time && !ready())
        return fail(HCCL_E_REMOTE,
                    format("HCCL: the root of communicator '%s' (pid %d) died before all ranks had "
                           "joined", name_.c_str(), (int)root_->pid));
      if (patience.over()) {
        std::string absent;
        for (uint32_t r = 0, shown = 0; r < n_ranks_ && shown < 4; r++)
          if (missing(r)) {
            absent += (shown++ ? "; " : "") + waiting_text(r);
          }
        return fail(HCCL_E_TIMEOUT,
                    format("HCCL: rank %u waited %g s (ASCEND_SIM_HCCL_TIMEOUT) %s%s, "
                           "communicator '%s': %s", rank_, time_limit_seconds(), what,
                           where.c_str(), name_.c_str(), absent.c_str()));
      }
    }
    futex_wait(event, seen, kPollMs);
  }
}

// ---- collectives --------------------------------------------------------------

HcclResult Comm::arrive(const Call &call) {
  const uint64_t mine = ++arrivals_;
  slot(rank_).arrivals.store(mine);
  const auto absent = [&](uint32_t r) { return slot(r).arrivals.load() < mine; };
  const auto all_here = [&] {
    for (uint32_t r = 0; r < n_ranks_; r++)
      if (absent(r)) return false;
    return true;
  };
  if (all_here()) {
    notify(&segment_->event);
    return HCCL_SUCCESS;
  }
  return wait_until(&segment_->event, all_here, absent, call);
}

HcclResult Comm::compare_calls() {
  const Call first = slot(0).calls[half_];
  for (uint32_t r = 1; r < n_ranks_; r++) {
    const Call other = slot(r).calls[half_];
    if (other == first) continue;
    return fail(HCCL_E_PARA,
                format("HCCL: the ranks of communicator '%s' called different operations: "
                       "rank 0 called %s, rank %u called %s", name_.c_str(), first.text().c_str(),
                       r, other.text().c_str()));
  }
  return HCCL_SUCCESS;
}

// fill(i) writes this rank's stage for round i, drain(i) reads everyone's.
template <typename Fill, typename Drain>
HcclResult Comm::rounds(const Call &call, uint64_t n_rounds, const Fill &fill, const Drain &drain) {
  for (uint64_t i = 0; i < std::max<uint64_t>(n_rounds, 1); i++) {
    half_ ^= 1;
    if (i == 0) slot(rank_).calls[half_] = call;
    if (i < n_rounds) fill(i);
    HcclResult result = arrive(call);
    if (result == HCCL_SUCCESS && i == 0) result = compare_calls();
    if (result == HCCL_SUCCESS && i < n_rounds) result = drain(i);
    if (result != HCCL_SUCCESS) return result;
  }
  return HCCL_SUCCESS;
}

HcclResult Comm::share_counts(const Call &call, const std::vector<uint64_t> &row) {
  return rounds(
      call, 1,
      [&](uint64_t) { std::copy(row.begin(), row.end(), counts_row(rank_)); },
      [](uint64_t) { return HCCL_SUCCESS; });
}

HcclResult Comm::all_reduce(const void *send, void *recv, uint64_t count, uint32_t type,
                            uint32_t op) {
  const Call call{Op::kAllReduce, type, op, kNoRank, count};
  std::lock_guard<std::mutex> lock(collective_mutex_);
  if (const HcclResult r = usable(call); r != HCCL_SUCCESS) return r;
  const uint64_t size = type_bytes(type), each = kStageBytes / size;
  std::vector<const void *> parts(n_ranks_);
  return rounds(
      call, rounds_for(count, each),
      [&](uint64_t i) {
        const uint64_t n = std::min(each, count - i * each);
        memcpy(stage(rank_), static_cast<const char *>(send) + i * each * size, n * size);
      },
      [&](uint64_t i) {
        const uint64_t n = std::min(each, count - i * each);
        char *out = static_cast<char *>(recv) + i * each * size;
        if (n * size <= kSplitBytes) {
          for (uint32_t r = 0; r < n_ranks_; r++) parts[r] = stage(r);
          hccl_sim::reduce(out, parts.data(), n_ranks_, n, type, op);
          return HCCL_SUCCESS;
        }
        // Each rank reduces its share for all.
        const uint64_t share = round_up(rounds_for(n, n_ranks_), 64);
        const uint64_t begin = std::min(n, share * rank_), end = std::min(n, begin + share);
        for (uint32_t r = 0; r < n_ranks_; r++) parts[r] = stage(r) + begin * size;
        hccl_sim::reduce(result_stage() + begin * size, parts.data(), n_ranks_, end - begin, type,
                         op);
        const HcclResult result = arrive(call);
        if (result == HCCL_SUCCESS) memcpy(out, result_stage(), n * size);
        return result;
      });
}

HcclResult Comm::reduce(const void *send, void *recv, uint64_t count, uint32_t type, uint32_t op,
                        uint32_t root) {
  const Call call{Op::kReduce, type, op, root, count};
  std::lock_guard<std::mutex> lock(collective_mutex_);
  if (const HcclResult r = usable(call); r != HCCL_SUCCESS) return r;
  const uint64_t size = type_bytes(type), each = kStageBytes / size;
  std::vector<const void *> parts(n_ranks_);
  return rounds(
      call, rounds_for(count, each),
      [&](uint64_t i) {
        const uint64_t n = std::min(each, count - i * each);
        memcpy(stage(rank_), static_cast<const char *>(send) + i * each * size, n * size);
      },
      [&](uint64_t i) {
        if (rank_ != root) return HCCL_SUCCESS;
        const uint64_t n = std::min(each, count - i * each);
        for (uint32_t r = 0; r < n_ranks_; r++) parts[r] = stage(r);
        hccl_sim::reduce(static_cast<char *>(recv) + i * each * size, parts.data(), n_ranks_, n,
                         type, op);
        return HCCL_SUCCESS;
      });
}

HcclResult Comm::broadcast(void *buffer, uint64_t count, uint32_t type, uint32_t root) {
  const Call call{Op::kBroadcast, type, UINT32_MAX, root, count};
  std::lock_guard<std::mutex> lock(collective_mutex_);
  if (const HcclResult r = usable(call); r != HCCL_SUCCESS) return r;
  const uint64_t bytes = count * type_bytes(type);
  char *data = static_cast<char *>(buffer);
  const auto part = [&](uint64_t i) { return std::min(kStageBytes, bytes - i * kStageBytes); };
  return rounds(
      call, rounds_for(bytes, kStageBytes),
      [&](uint64_t i) {
        if (rank_ == root) memcpy(stage(rank_), data + i * kStageBytes, part(i));
      },
      [&](uint64_t i) {
        if (rank_ != root) memcpy(data + i * kStageBytes, stage(root), part(i));
        return HCCL_SUCCESS;
      });
}

HcclResult Comm::all_gather(const void *send, void *recv, uint64_t count, uint32_t type) {
  const Call call{Op::kAllGather, type, UINT32_MAX, kNoRank, count};
  std::lock_guard<std::mutex> lock(collective_mutex_);
  if (const HcclResult r = usable(call); r != HCCL_SUCCESS) return r;
  const uint64_t bytes = count * type_bytes(type);
  const auto part = [&](uint64_t i) { return std::min(kStageBytes, bytes - i * kStageBytes); };
  return rounds(
      call, rounds_for(bytes, kStageBytes),
      [&](uint64_t i) {
        memcpy(stage(rank_), static_cast<const char *>(send) + i * kStageBytes, part(i));
      },
      [&](uint64_t i) {
        for (uint32_t r = 0; r < n_ranks_; r++)
          memcpy(static_cast<char *>(recv) + r * bytes + i * kStageBytes, stage(r), part(i));
        return HCCL_SUCCESS;
      });
}

HcclResult Comm::all_gather_v(const void *send, uint64_t count, void *recv,
                              const std::vector<uint64_t> &counts,
                              const std::vector<uint64_t> &displacements, uint32_t type) {
  const Call call{Op::kAllGatherV, type, UINT32_MAX, kNoRank, 0};
  std::lock_guard<std::mutex> lock(collective_mutex_);
  if (const HcclResult r = usable(call); r != HCCL_SUCCESS) return r;
  std::vector<uint64_t> row{count};
  row.insert(row.end(), counts.begin(), counts.end());
  if (const HcclResult r = share_counts(call, row); r != HCCL_SUCCESS) return r;
  uint64_t longest = 0;
  for (uint32_t r = 0; r < n_ranks_; r++) {
    const uint64_t given = shared_count(r, 0);
    longest = std::max(longest, given);
    for (uint32_t s = 0; s < n_ranks_; s++)
      if (shared_count(s, 1 + r) != given)
        return fail(HCCL_E_PARA,
                    format("HCCL: in HcclAllGatherV on communicator '%s' rank %u gives %llu "
                           "elements, but rank %u expects %llu from it", name_.c_str(), r,
                           (unsigned long long)given, s,
                           (unsigned long long)shared_count(s, 1 + r)));
  }
  const uint64_t size = type_bytes(type), each = kStageBytes / size;
  const auto part = [&](uint64_t total, uint64_t i) {
    return total <= i * each ? 0 : std::min(each, total - i * each);
  };
  return rounds(
      call, rounds_for(longest, each),
      [&](uint64_t i) {
        memcpy(stage(rank_), static_cast<const char *>(send) + i * each * size,
               part(count, i) * size);
      },
      [&](uint64_t i) {
        for (uint32_t r = 0; r < n_ranks_; r++)
          memcpy(static_cast<char *>(recv) + (displacements[r] + i * each) * size, stage(r),
                 part(counts[r], i) * size);
        return HCCL_SUCCESS;
      });
}

HcclResult Comm::reduce_scatter(const void *send, void *recv, uint64_t count, uint32_t type,
                                uint32_t op) {
  const Call call{Op::kReduceScatter, type, op, kNoRank, count};
  std::lock_guard<std::mutex> lock(collective_mutex_);
  if (const HcclResult r = usable(call); r != HCCL_SUCCESS) return r;
  const uint64_t size = type_bytes(type), each = kStageBytes / n_ranks_ / 64 * 64 / size;
  const auto part = [&](uint64_t i) { return std::min(each, count - i * each); };
  std::vector<const void *> parts(n_ranks_);
  return rounds(
      call, rounds_for(count, each),
      [&](uint64_t i) {
        for (uint32_t r = 0; r < n_ranks_; r++)
          memcpy(stage(rank_) + r * each * size,
                 static_cast<const char *>(send) + (r * count + i * each) * size, part(i) * size);
      },
      [&](uint64_t i) {
        for (uint32_t r = 0; r < n_ranks_; r++) parts[r] = stage(r) + rank_ * each * size;
        hccl_sim::reduce(static_cast<char *>(recv) + i * each * size, parts.data(), n_ranks_,
                         part(i), type, op);
        return HCCL_SUCCESS;
      });
}

HcclResult Comm::reduce_scatter_v(const void *send, const std::vector<uint64_t> &counts,
                                  const std::vector<uint64_t> &displacements, void *recv,
                                  uint64_t count, uint32_t type, uint32_t op) {
  const Call call{Op::kReduceScatterV, type, op, kNoRank, 0};
  std::lock_guard<std::mutex> lock(collective_mutex_);
  if (const HcclResult r = usable(call); r != HCCL_SUCCESS) return r;
  std::vector<uint64_t> row{count};
  row.insert(row.end(), counts.begin(), counts.end());
  if (const HcclResult r = share_counts(call, row); r != HCCL_SUCCESS) return r;
  uint64_t longest = 0;
  for (uint32_t r = 0; r < n_ranks_; r++) {
    const uint64_t wanted = shared_count(r, 0);
    longest = std::max(longest, wanted);
    for (uint32_t s = 0; s < n_ranks_; s++)
      if (shared_count(s, 1 + r) != wanted)
        return fail(HCCL_E_PARA,
                    format("HCCL: in HcclReduceScatterV on communicator '%s' rank %u "
                           "expects %llu elements, but rank %u gives it %llu", name_.c_str(), r,
                           (unsigned long long)wanted, s,
                           (unsigned long long)shared_count(s, 1 + r)));
  }
  const uint64_t size = type_bytes(type), each = kStageBytes / n_ranks_ / 64 * 64 / size;
  const auto part = [&](uint64_t total, uint64_t i) {
    return total <= i * each ? 0 : std::min(each, total - i * each);
  };
  std::vector<const void *> parts(n_ranks_);
  return rounds(
      call, rounds_for(longest, each),
      [&](uint64_t i) {
        for (uint32_t r = 0; r < n_ranks_; r++)
          memcpy(stage(rank_) + r * each * size,
                 static_cast<const char *>(send) + (displacements[r] + i * each) * size,
                 part(counts[r], i) * size);
      },
      [&](uint64_t i) {
        for (uint32_t r = 0; r < n_ranks_; r++) parts[r] = stage(r) + rank_ * each * size;
        hccl_sim::reduce(static_cast<char *>(recv) + i * each * size, parts.data(), n_ranks_,
                         part(count, i), type, op);
        return HCCL_SUCCESS;
      });
}

HcclResult Comm::scatter(const void *send, void *recv, uint64_t count, uint32_t type,
                         uint32_t root) {
  const Call call{Op::kScatter, type, UINT32_MAX, root, count};
  std::lock_guard<std::mutex> lock(collective_mutex_);
  if (const HcclResult r = usable(call); r != HCCL_SUCCESS) return r;
  const uint64_t bytes = count * type_bytes(type), each = kStageBytes / n_ranks_ / 64 * 64;
  const auto part = [&](uint64_t i) { return std::min(each, bytes - i * each); };
  return rounds(
      call, rounds_for(bytes, each),
      [&](uint64_t i) {
        if (rank_ != root) return;
        for (uint32_t r = 0; r < n_ranks_; r++)
          memcpy(stage(rank_) + r * each, static_cast<const char *>(send) + r * bytes + i * each,
                 part(i));
      },
      [&](uint64_t i) {
        memcpy(static_cast<char *>(recv) + i * each, stage(root) + rank_ * each, part(i));
        return HCCL_SUCCESS;
      });
}

HcclResult Comm::all_to_all(const void *send, void *recv, uint64_t count, uint32_t type) {
  const Call call{Op::kAllToAll, type, UINT32_MAX, kNoRank, count};
  std::lock_guard<std::mutex> lock(collective_mutex_);
  if (const HcclResult r = usable(call); r != HCCL_SUCCESS) return r;
  const uint64_t bytes = count * type_bytes(type), each = kStageBytes / n_ranks_ / 64 * 64;
  const auto part = [&](uint64_t i) { return std::min(each, bytes - i * each); };
  return rounds(
      call, rounds_for(bytes, each),
      [&](uint64_t i) {
        for (uint32_t r = 0; r < n_ranks_; r++)
          memcpy(stage(rank_) + r * each, static_cast<const char *>(send) + r * bytes + i * each,
                 part(i));
      },
      [&](uint64_t i) {
        for (uint32_t r = 0; r < n_ranks_; r++)
          memcpy(static_cast<char *>(recv) + r * bytes + i * each, stage(r) + rank_ * each,
                 part(i));
        return HCCL_SUCCESS;
      });
}

uint64_t Comm::shared_count(uint32_t rank, uint32_t column) const {
  return counts_row(rank)[column];
}

HcclResult Comm::all_to_all_v(const void *send, const std::vector<uint64_t> &send_counts,
                              const std::vector<uint64_t> &send_displacements, void *recv,
                              const std::vector<uint64_t> &recv_counts,
                              const std::vector<uint64_t> &recv_displacements, uint32_t type) {
  const Call call{Op::kAllToAllV, type, UINT32_MAX, kNoRank, 0};
  std::lock_guard<std::mutex> lock(collective_mutex_);
  if (const HcclResult r = usable(call); r != HCCL_SUCCESS) return r;
  std::vector<uint64_t> row(send_counts);
  row.insert(row.end(), recv_counts.begin(), recv_counts.end());
  if (const HcclResult r = share_counts(call, row); r != HCCL_SUCCESS) return r;
  uint64_t longest = 0;
  for (uint32_t s = 0; s < n_ranks_; s++)
    for (uint32_t d = 0; d < n_ranks_; d++) {
      const uint64_t given = shared_count(s, d), expected = shared_count(d, n_ranks_ + s);
      longest = std::max(longest, given);
      if (given != expected)
        return fail(HCCL_E_PARA,
                    format("HCCL: in HcclAlltoAllV on communicator '%s' rank %u sends %llu "
                           "elements to rank %u, which expects %llu", name_.c_str(), s,
                           (unsigned long long)given, d, (unsigned long long)expected));
    }
  const uint64_t size = type_bytes(type), each = kStageBytes / n_ranks_ / 64 * 64 / size;
  const auto part = [&](uint64_t total, uint64_t i) {
    return total <= i * each ? 0 : std::min(each, total - i * each);
  };
  return rounds(
      call, rounds_for(longest, each),
      [&](uint64_t i) {
        for (uint32_t r = 0; r < n_ranks_; r++)
          memcpy(stage(rank_) + r * each * size,
                 static_cast<const char *>(send) + (send_displacements[r] + i * each) * size,
                 part(send_counts[r], i) * size);
      },
      [&](uint64_t i) {
        for (uint32_t r = 0; r < n_ranks_; r++)
          memcpy(static_cast<char *>(recv) + (recv_displacements[r] + i * each) * size,
                 stage(r) + rank_ * each * size, part(recv_counts[r], i) * size);
        return HCCL_SUCCESS;
      });
}

HcclResult Comm::barrier() {
  const Call call{Op::kBarrier, 0, UINT32_MAX, kNoRank, 0};
  std::lock_guard<std::mutex> lock(collective_mutex_);
  if (const HcclResult r = usable(call); r != HCCL_SUCCESS) return r;
  return rounds(
      call, 0, [](uint64_t) {}, [](uint64_t) { return HCCL_SUCCESS; });
}

// ---- sends and receives ---------------------------------------------------------

Comm::TransferPtr Comm::start_transfer(Op op, void *buffer, uint64_t count, uint32_t type,
                                       uint32_t peer) {
  TransferPtr transfer = std::make_shared<Transfer>();
  transfer->call = Call{op, type, UINT32_MAX, peer, count};
  transfer->buffer = static_cast<char *>(buffer);
  transfer->bytes = count * type_bytes(type);
  transfer->result = usable(transfer->call);
  transfer->done = transfer->result != HCCL_SUCCESS;
  if (!transfer->done) {
    std::lock_guard<std::mutex> lock(transfer_mutex_);
    (op == Op::kSend ? sends_ : recvs_)[peer].push_back(transfer);
  }
  return transfer;
}

// Puts fragments of a message into the ring; true if it moved anything.
bool Comm::step_send(Transfer &t) {
  const uint32_t peer = t.call.peer;
  Ring &out = ring(rank_, peer);
  bool moved = false;
  while (!t.done) {
    if (slot(peer).state.load() == kLeft) {
      t.result = report(HCCL_E_REMOTE,
                        format("HCCL: %s on communicator '%s': %s has destroyed the "
                               "communicator", t.call.text().c_str(), name_.c_str(),
                               rank_text(peer).c_str()));
      t.done = true;
      break;
    }
    const uint64_t head = out.head.load();
    if (head - out.tail.load() == kRingFragments) break;
    const uint64_t bytes = std::min(kFragmentBytes, t.bytes - t.moved);
    const uint64_t in_flight = out.bytes_in_flight.load();
    if (in_flight > 0 && in_flight + bytes > send_buffer_bytes()) break;
    Fragment &fragment = out.fragments[head % kRingFragments];
    fragment.call = t.call;
    fragment.bytes = bytes;
    fragment.offset = segment_->arena_end.fetch_add(round_up(bytes, kPage));
    if (move_bytes(fd_, t.buffer + t.moved, bytes, fragment.offset, true) != HCCL_SUCCESS) {
      t.result = fail(HCCL_E_MEMORY, format("HCCL: no memory to buffer %s: %s",
                                            t.call.text().c_str(), strerror(errno)));
      t.done = true;
      break;
    }
    out.bytes_in_flight.fetch_add(bytes);
    out.head.store(head + 1);
    notify(&slot(peer).transfer_event);
    t.moved += bytes;
    moved = true;
    t.done = t.moved == t.bytes;
  }
  return moved;
}

// Takes fragments out of the ring; true if it moved anything.
bool Comm::step_recv(Transfer &t) {
  const uint32_t peer = t.call.peer;
  Ring &in = ring(peer, rank_);
  bool moved = false;
  while (!t.done) {
    const uint64_t tail = in.tail.load();
    if (in.head.load() == tail) break;
    const Fragment &fragment = in.fragments[tail % kRingFragments];
    if (fragment.call.count != t.call.count || fragment.call.type != t.call.type) {
      t.result = fail(HCCL_E_PARA,
                      format("HCCL: calls differ on communicator '%s': rank %u called %s, "
                             "rank %u called %s", name_.c_str(), peer, fragment.call.text().c_str(),
                             rank_, t.call.text().c_str()));
      t.done = true;
      break;
    }
    const uint64_t bytes = fragment.bytes;
    if (move_bytes(fd_, t.buffer + t.moved, bytes, fragment.offset, false) != HCCL_SUCCESS) {
      t.result = fail(HCCL_E_INTERNAL, format("HCCL: cannot read the bytes of %s: %s",
                                              fragment.call.text().c_str(), strerror(errno)));
      t.done = true;
      break;
    }
    if (bytes > 0)
      fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)fragment.offset,
                (off_t)round_up(bytes, kPage));
    in.bytes_in_flight.fetch_sub(bytes);
    in.tail.store(tail + 1);
    notify(&slot(peer).transfer_event);
    t.moved += bytes;
    moved = true;
    t.done = t.moved == t.bytes;
  }
  return moved;
}

void Comm::step_queue(std::deque<TransferPtr> &queue) {
  while (!queue.empty()) {
    Transfer &t = *queue.front();
    if (t.call.op == Op::kSend)
      step_send(t);
    else
      step_recv(t);
    if (!t.done) return;
    queue.pop_front();
  }
}

void Comm::progress() {
  std::lock_guard<std::mutex> lock(transfer_mutex_);
  for (uint32_t peer = 0; peer < n_ranks_; peer++) {
    step_queue(sends_[peer]);
    step_queue(recvs_[peer]);
  }
  if (!has_failed() && is_member_) return;
  for (auto *queues : {&sends_, &recvs_})
    for (std::deque<TransferPtr> &queue : *queues) {
      for (const TransferPtr &t : queue) {
        t->result = usable(t->call);
        t->done = true;
      }
      queue.clear();
    }
}

HcclResult Comm::finish(const Transfers &transfers) {
  std::map<Comm *, std::vector<Transfer *>> by_comm;
  for (const auto &[comm, transfer] : transfers) by_comm[comm.get()].push_back(transfer.get());

  Patience patience;
  uint64_t moved_before = 0;
  bool marked = false;
  for (;;) {
    bool done = true;
    uint64_t moved = 0;
    std::atomic<uint32_t> *event = nullptr;
    uint32_t seen = 0;
    for (auto &[comm, of_comm] : by_comm) {
      event = &comm->slot(comm->rank_).transfer_event;
      seen = event->load();
      comm->progress();
      for (const Transfer *t : of_comm) {
        done = done && t->done;
        moved += t->moved;
      }
    }
    if (done) break;
    if (moved > moved_before) {
      moved_before = moved;
      patience = Patience();
    }
    const bool check = patience.time_to_check();
    for (auto &[comm, of_comm] : by_comm) {
      RankSlot &mine = comm->slot(comm->rank_);
      for (Transfer *t : of_comm) {
        if (t->done) continue;
        const uint32_t peer = t->call.peer;
        if (!marked) {
          mine.waiting = t->call;
          mine.is_waiting.store(1);
        }
        if (!check) break;
        const std::string gone = comm->gone_text(peer);
        if (!gone.empty()) {
          // What it sent before is still to be had.
          comm->progress();
          if (!t->done)
            comm->fail(HCCL_E_REMOTE,
                       format("HCCL: %s %s while rank %u waited for it in %s, "
                              "communicator '%s'", comm->rank_text(peer).c_str(), gone.c_str(),
                              comm->rank_, t->call.text().c_str(), comm->name_.c_str()));
        } else if (patience.over()) {
          comm->fail(HCCL_E_TIMEOUT,
                     format("HCCL: rank %u waited %g s (ASCEND_SIM_HCCL_TIMEOUT) in %s, "
                            "communicator '%s': %s", comm->rank_, time_limit_seconds(),
                            t->call.text().c_str(), comm->name_.c_str(),
                            comm->waiting_text(peer).c_str()));
        }
      }
    }
    marked = true;
    // With one communicator its event says when to look again; with more, look often.
    if (by_comm.size() == 1)
      futex_wait(event, seen, kPollMs);
    else
      usleep(200);
  }
  HcclResult result = HCCL_SUCCESS;
  for (const auto &[comm, transfer] : transfers) {
    comm->slot(comm->rank_).is_waiting.store(0);
    if (result == HCCL_SUCCESS) result = transfer->result;
  }
  return result;
}

// ---- sub-communicators ------------------------------------------------------------

HcclResult Comm::agree_on_segment(uint64_t id, const std::vector<uint32_t> &members,
                                  uint32_t new_rank, SegmentAddress *address) {
  uint64_t hash = 1469598103934665603ull;
  for (const uint32_t member : members) hash = (hash ^ (member + 1)) * 1099511628211ull;
  // The same members can make the same sub-communicator again: all count alike.
  uint64_t generation;
  {
    std::lock_guard<std::mutex> lock(generations_mutex_);
    generation = ++generations_[{id, hash}];
  }
  if (new_rank == 0) {
    if (const HcclResult r = create_segment(address); r != HCCL_SUCCESS) return r;
    if (members.size() == 1) return HCCL_SUCCESS;
    for (Offer &offer : segment_->offers) {
      uint32_t free_state = 0;
      if (!offer.state.compare_exchange_strong(free_state, 1)) continue;
      offer.id = id;
      offer.members_hash = hash;
      offer.generation = generation;
      offer.address = *address;
      offer.takers_left.store((uint32_t)members.size() - 1);
      offer.state.store(2);
      notify(&segment_->event);
      return HCCL_SUCCESS;
    }
    forget_segment(*address);
    return report(HCCL_E_UNAVAIL, format("HCCL: more than %u sub-communicators of '%s' "
                                         "wait for their members", kOffers, name_.c_str()));
  }
  const auto take = [&] {
    for (Offer &offer : segment_->offers) {
      if (offer.state.load() != 2 || offer.id != id || offer.members_hash != hash ||
          offer.generation != generation)
        continue;
      *address = offer.address;
      if (offer.takers_left.fetch_sub(1) == 1) offer.state.store(0);
      return true;
    }
    return false;
  };
  return wait_until(
      &segment_->event, take, [&](uint32_t r) { return r == members[0]; }, Call());
}

}  // namespace hccl_sim
