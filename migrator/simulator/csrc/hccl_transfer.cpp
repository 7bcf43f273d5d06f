// SPDX-License-Identifier: Apache-2.0
//
// Sends and receives.
#include "hccl_reduce.h"
#include "hccl_segment.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace hccl_sim {

namespace {

constexpr uint64_t kFragmentBytes = 8 << 20;      // of a message, moved at once

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

}  // namespace

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

}  // namespace hccl_sim
