// SPDX-License-Identifier: Apache-2.0
//
// Collectives: rounds in which each rank fills its stage and reads those of the others.
#include "hccl_reduce.h"
#include "hccl_segment.h"

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <mutex>
#include <vector>

namespace hccl_sim {

namespace {

constexpr uint64_t kSplitBytes = 32 << 10;        // above it the ranks share a reduction

// How many of `total` elements round `i` of `each` moves.
uint64_t part_of(uint64_t total, uint64_t each, uint64_t i) {
  return total <= i * each ? 0 : std::min(each, total - i * each);
}

}  // namespace

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

HcclResult Comm::agree(const Call &call, uint64_t own, const std::vector<uint64_t> &of_ranks,
                       const Conflict &conflict, uint64_t *longest) {
  std::vector<uint64_t> row{own};
  row.insert(row.end(), of_ranks.begin(), of_ranks.end());
  if (const HcclResult r = share_counts(call, row); r != HCCL_SUCCESS) return r;
  for (uint32_t r = 0; r < n_ranks_; r++) {
    const uint64_t said = shared_count(r, 0);
    *longest = std::max(*longest, said);
    for (uint32_t s = 0; s < n_ranks_; s++)
      if (const uint64_t other = shared_count(s, 1 + r); other != said)
        return fail(HCCL_E_PARA, conflict(r, said, s, other));
  }
  return HCCL_SUCCESS;
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
  uint64_t longest = 0;
  const auto conflict = [&](uint32_t r, unsigned long long given, uint32_t s,
                            unsigned long long other) {
    return format("HCCL: in HcclAllGatherV on communicator '%s' rank %u gives %llu "
                  "elements, but rank %u expects %llu from it", name_.c_str(), r, given, s, other);
  };
  if (const HcclResult r = agree(call, count, counts, conflict, &longest); r != HCCL_SUCCESS)
    return r;
  const uint64_t size = type_bytes(type), each = kStageBytes / size;
  return rounds(
      call, rounds_for(longest, each),
      [&](uint64_t i) {
        memcpy(stage(rank_), static_cast<const char *>(send) + i * each * size,
               part_of(count, each, i) * size);
      },
      [&](uint64_t i) {
        for (uint32_t r = 0; r < n_ranks_; r++)
          memcpy(static_cast<char *>(recv) + (displacements[r] + i * each) * size, stage(r),
                 part_of(counts[r], each, i) * size);
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
  uint64_t longest = 0;
  const auto conflict = [&](uint32_t r, unsigned long long wanted, uint32_t s,
                            unsigned long long other) {
    return format("HCCL: in HcclReduceScatterV on communicator '%s' rank %u "
                  "expects %llu elements, but rank %u gives it %llu", name_.c_str(), r, wanted, s, other);
  };
  if (const HcclResult r = agree(call, count, counts, conflict, &longest); r != HCCL_SUCCESS)
    return r;
  const uint64_t size = type_bytes(type), each = kStageBytes / n_ranks_ / 64 * 64 / size;
  std::vector<const void *> parts(n_ranks_);
  return rounds(
      call, rounds_for(longest, each),
      [&](uint64_t i) {
        for (uint32_t r = 0; r < n_ranks_; r++)
          memcpy(stage(rank_) + r * each * size,
                 static_cast<const char *>(send) + (displacements[r] + i * each) * size,
                 part_of(counts[r], each, i) * size);
      },
      [&](uint64_t i) {
        for (uint32_t r = 0; r < n_ranks_; r++) parts[r] = stage(r) + rank_ * each * size;
        hccl_sim::reduce(static_cast<char *>(recv) + i * each * size, parts.data(), n_ranks_,
                         part_of(count, each, i), type, op);
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
  return rounds(
      call, rounds_for(longest, each),
      [&](uint64_t i) {
        for (uint32_t r = 0; r < n_ranks_; r++)
          memcpy(stage(rank_) + r * each * size,
                 static_cast<const char *>(send) + (send_displacements[r] + i * each) * size,
                 part_of(send_counts[r], each, i) * size);
      },
      [&](uint64_t i) {
        for (uint32_t r = 0; r < n_ranks_; r++)
          memcpy(static_cast<char *>(recv) + (recv_displacements[r] + i * each) * size,
                 stage(r) + rank_ * each * size, part_of(recv_counts[r], each, i) * size);
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

}  // namespace hccl_sim
