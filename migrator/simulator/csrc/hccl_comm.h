// SPDX-License-Identifier: Apache-2.0
//
// A communicator of the simulated HCCL: ranks (processes of one machine, or threads
// of one process) that share one memory segment.
//
// The segment is an anonymous memory file (memfd) which the root rank creates; the
// others open it through /proc/<pid>/fd. It never has a name in /dev/shm, so nothing
// is left there however the ranks end, and the size of /dev/shm does not limit it.
//
// What makes it safe without locks between processes:
// * A collective is a sequence of rounds. In each round a rank writes what it gives
//   into its own stage, arrives at the barrier, then reads the stages of the others.
//   Stages are double: a rank writes the same stage again two rounds later, after
//   the barrier of the round between, which everyone reaches only when done reading.
// * Each ordered pair of ranks has a ring of message fragments with one writer and
//   one reader. The bytes of a fragment lie behind the fixed part of the segment,
//   at an offset used once, and are given back to the system when received.
// * Whoever finds that the communicator cannot go on (a rank died, calls differ,
//   nobody came in time) writes the reason into the segment once; every rank that
//   waits sees it.
#ifndef ASCEND_SIM_HCCL_COMM_H_
#define ASCEND_SIM_HCCL_COMM_H_

#include <stdarg.h>
#include <stdint.h>
#include <sys/types.h>

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "hccl_types.h"

namespace hccl_sim {

enum class Op : uint32_t {
  kNone,
  kAllReduce,
  kReduce,
  kBroadcast,
  kAllGather,
  kAllGatherV,
  kReduceScatter,
  kReduceScatterV,
  kScatter,
  kAllToAll,
  kAllToAllV,
  kBarrier,
  kSend,
  kRecv,
};

constexpr uint32_t kNoRank = UINT32_MAX;

// What a rank asked for, as the other ranks compare it and errors print it.
// Plain data: it lies in shared memory.
struct Call {
  Op op = Op::kNone;
  uint32_t type = 0;
  uint32_t reduce_op = UINT32_MAX;
  uint32_t peer = kNoRank;  // root, destination or source
  uint64_t count = 0;

  bool operator==(const Call &o) const {
    return op == o.op && type == o.type && reduce_op == o.reduce_op && peer == o.peer &&
           count == o.count;
  }
  std::string text() const;
};

// Makes `message` the one that torch_npu prints with its own error; returns `code`.
HcclResult report(HcclResult code, const std::string &message);
std::string format(const char *pattern, ...) __attribute__((format(printf, 1, 2)));

// Seconds that a rank waits for ranks which are alive: ASCEND_SIM_HCCL_TIMEOUT.
double time_limit_seconds();

struct Segment;   // the fixed part of the shared memory
struct RankSlot;  // one rank's line in it
struct Ring;      // fragments from one rank to another
struct Fragment;

// Where a segment is found. Lies in HcclRootInfo, which torch_npu sends between
// processes as bytes.
struct SegmentAddress {
  char magic[16];
  char machine[64];
  uint64_t id[2];
  uint64_t start_time;  // of the process, to tell it from a later one with its pid
  int32_t pid;
  int32_t fd;
};

class Comm {
 public:
  // Creates the memory file. The caller's process keeps it open until it has joined.
  static HcclResult create_segment(SegmentAddress *address);
  // Closes the memory file of a segment that the caller created and nobody will join.
  static void forget_segment(const SegmentAddress &address);

  // Joins as `rank` on the logical device `device`. With `wait`, returns when all
  // `n_ranks` have joined; an error if one does not within the time limit.
  static HcclResult join(const SegmentAddress &address, uint32_t n_ranks, uint32_t rank,
                         int device, const std::string &name, bool wait,
                         std::shared_ptr<Comm> *out);
  ~Comm();
  Comm(const Comm &) = delete;
  Comm &operator=(const Comm &) = delete;

  uint32_t rank() const { return rank_; }
  uint32_t size() const { return n_ranks_; }
  int device() const { return device_; }
  const std::string &name() const { return name_; }

  // Tells the other ranks that this one has left; ends what its threads wait for.
  void leave();

  // Success, or why `call` cannot be made.
  HcclResult usable(const Call &call);

  // Ends the communicator for every rank, with this reason, and returns `code`.
  HcclResult fail(HcclResult code, const std::string &message);

  // All counts in elements of `type`, displacements too; buffers are device memory.
  HcclResult all_reduce(const void *send, void *recv, uint64_t count, uint32_t type, uint32_t op);
  HcclResult reduce(const void *send, void *recv, uint64_t count, uint32_t type, uint32_t op,
                    uint32_t root);
  HcclResult broadcast(void *buffer, uint64_t count, uint32_t type, uint32_t root);
  HcclResult all_gather(const void *send, void *recv, uint64_t count, uint32_t type);
  HcclResult all_gather_v(const void *send, uint64_t count, void *recv,
                          const std::vector<uint64_t> &counts,
                          const std::vector<uint64_t> &displacements, uint32_t type);
  HcclResult reduce_scatter(const void *send, void *recv, uint64_t count, uint32_t type,
                            uint32_t op);
  HcclResult reduce_scatter_v(const void *send, const std::vector<uint64_t> &counts,
                              const std::vector<uint64_t> &displacements, void *recv,
                              uint64_t count, uint32_t type, uint32_t op);
  HcclResult scatter(const void *send, void *recv, uint64_t count, uint32_t type, uint32_t root);
  HcclResult all_to_all(const void *send, void *recv, uint64_t count, uint32_t type);
  HcclResult all_to_all_v(const void *send, const std::vector<uint64_t> &send_counts,
                          const std::vector<uint64_t> &send_displacements, void *recv,
                          const std::vector<uint64_t> &recv_counts,
                          const std::vector<uint64_t> &recv_displacements, uint32_t type);
  HcclResult barrier();

  // A send or a receive under way. Those between this rank and one peer, in one
  // direction, are served in the order in which they were started.
  struct Transfer {
    Call call;
    char *buffer = nullptr;
    uint64_t bytes = 0;
    uint64_t moved = 0;
    bool begun = false;
    bool done = false;
    HcclResult result = HCCL_SUCCESS;
  };
  using TransferPtr = std::shared_ptr<Transfer>;

  TransferPtr start_transfer(Op op, void *buffer, uint64_t count, uint32_t type, uint32_t peer);
  // Moves what can be moved without waiting.
  void progress();
  // Waits until all of `transfers`, each of its own communicator, are done.
  using Transfers = std::vector<std::pair<std::shared_ptr<Comm>, TransferPtr>>;
  static HcclResult finish(const Transfers &transfers);

  // Among `members` of this communicator (ranks, in their new order) agree on a new
  // segment; the first member creates it. Only the members call.
  HcclResult agree_on_segment(uint64_t id, const std::vector<uint32_t> &members,
                              uint32_t new_rank, SegmentAddress *address);

 private:
  Comm() = default;

  using Ready = std::function<bool()>;

  HcclResult shared_failure();
  bool has_failed() const;
  std::string rank_text(uint32_t rank) const;
  std::string waiting_text(uint32_t rank) const;
  // "" while the rank is there, else how it is gone.
  std::string gone_text(uint32_t rank) const;
  HcclResult wait_until(std::atomic<uint32_t> *event, const Ready &ready,
                        const std::function<bool(uint32_t)> &missing, const Call &call);
  void notify(std::atomic<uint32_t> *event);
  void notify_everyone();

  HcclResult arrive(const Call &call);
  HcclResult compare_calls();
  template <typename Fill, typename Drain>
  HcclResult rounds(const Call &call, uint64_t n_rounds, const Fill &fill, const Drain &drain);
  HcclResult share_counts(const Call &call, const std::vector<uint64_t> &row);
  uint64_t shared_count(uint32_t rank, uint32_t column) const;
  // What is said where rank `r` says `said` of itself and rank `s` says `other` of it.
  using Conflict = std::function<std::string(uint32_t r, unsigned long long said, uint32_t s,
                                             unsigned long long other)>;
  // Share each rank's own count and what it says of all; `longest` is the most of any.
  HcclResult agree(const Call &call, uint64_t own, const std::vector<uint64_t> &of_ranks,
                   const Conflict &conflict, uint64_t *longest);

  bool step_send(Transfer &transfer);
  bool step_recv(Transfer &transfer);
  void step_queue(std::deque<TransferPtr> &queue);

  char *stage(uint32_t rank) const;
  char *result_stage() const;
  RankSlot &slot(uint32_t rank) const;
  Ring &ring(uint32_t source, uint32_t destination) const;
  uint64_t *counts_row(uint32_t rank) const;

  uint32_t n_ranks_ = 0;
  uint32_t rank_ = 0;
  int device_ = -1;
  uint64_t buffers_ = 0;  // bytes of the device's memory
  std::string name_;
  pid_t owner_ = 0;
  int fd_ = -1;
  char *base_ = nullptr;
  uint64_t mapped_ = 0;
  Segment *segment_ = nullptr;
  const SegmentAddress *root_ = nullptr;  // while joining
  std::atomic<bool> is_member_{false};  // has joined and not left

  std::mutex collective_mutex_;
  uint64_t arrivals_ = 0;
  uint32_t half_ = 0;         // which of the two stages the current round uses

  std::mutex transfer_mutex_;
  std::vector<std::deque<TransferPtr>> sends_, recvs_;  // by peer

  std::mutex generations_mutex_;
  std::map<std::pair<uint64_t, uint64_t>, uint64_t> generations_;  // of each sub-communicator
};

}  // namespace hccl_sim

#endif  // ASCEND_SIM_HCCL_COMM_H_
