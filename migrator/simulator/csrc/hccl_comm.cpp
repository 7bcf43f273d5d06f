// SPDX-License-Identifier: Apache-2.0
//
// Communicators: set up over a segment, joined, left and split.
#include "hccl_comm.h"
#include "ascend_sim.h"
#include "hccl_segment.h"
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <utility>

extern "C" const char *aclGetRecentErrMsg(void);

namespace hccl_sim {

namespace {

constexpr char kMagic[16] = "ascend-sim-hccl";
constexpr char kMemoryFile[] = "/memfd:ascend-sim-hccl";
constexpr char kOutOfDate[] = "HCCL: this root info is out of date: its communicator has been set "
                              "up or given up already";
constexpr uint32_t kMaxRanks = 1024;

constexpr char kBuffers[] = "a communicator of HCCL (two buffers of HCCL_BUFFSIZE)";

// HCCL_BUFFSIZE, which is in MiB.
uint64_t buffer_bytes() {
  const char *text = getenv("HCCL_BUFFSIZE");
  const long given = text ? strtol(text, nullptr, 10) : 0;
  return static_cast<uint64_t>(given > 0 ? given : 200) << 20;
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
  const uint64_t buffers = n_ranks > 1 ? 2 * buffer_bytes() : 0;
  const int taken = buffers ? ascend_sim_take_overhead(device, buffers, kBuffers) : 0;
  if (taken < 0) return comm->fail(HCCL_E_MEMORY, aclGetRecentErrMsg());
  if (taken > 0) comm->buffers_ = buffers;
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
  if (const uint64_t buffers = std::exchange(buffers_, 0)) ascend_sim_give_overhead(device_, buffers);
  slot(rank_).state.store(kLeft);
  notify_everyone();
}

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
