// SPDX-License-Identifier: Apache-2.0
//
// The memory that the ranks of a communicator share; hccl_comm.h says how it is used.
#ifndef ASCEND_SIM_HCCL_SEGMENT_H_
#define ASCEND_SIM_HCCL_SEGMENT_H_

#include <stdint.h>
#include <time.h>

#include <atomic>

#include "hccl_comm.h"

namespace hccl_sim {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kStageBytes = 1 << 20;         // what a rank gives in one round
constexpr uint32_t kRingFragments = 512;
constexpr uint32_t kOffers = 64;                  // sub-communicators under creation at once
constexpr int kPollMs = 50;                       // longest sleep without looking around
constexpr double kLifeCheckSeconds = 0.1;

enum SlotState : uint32_t { kEmpty, kJoining, kJoined, kLeft };
enum FailState : uint32_t { kNoFailure, kFailureBeingWritten, kFailed };

inline uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }
inline uint64_t rounds_for(uint64_t total, uint64_t each) { return (total + each - 1) / each; }

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

// Where the parts lie in the segment of n ranks, in bytes.
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

double now_seconds();

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

// Sleeps until `word` is no longer `seen`, or that long.
void futex_wait(std::atomic<uint32_t> *word, uint32_t seen, int milliseconds);

}  // namespace hccl_sim

#endif  // ASCEND_SIM_HCCL_SEGMENT_H_
