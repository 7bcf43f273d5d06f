// SPDX-License-Identifier: Apache-2.0
//
// Waiting for other ranks, and failing for all of them.
#include "ascend_sim.h"
#include "hccl_reduce.h"
#include "hccl_segment.h"
#include "process.h"

#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <string>

namespace hccl_sim {

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

namespace {

void futex_wake_all(std::atomic<uint32_t> *word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t *>(word), FUTEX_WAKE, INT32_MAX, nullptr, nullptr,
          0);
}

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

}  // namespace hccl_sim
