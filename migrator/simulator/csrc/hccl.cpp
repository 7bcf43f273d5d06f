// SPDX-License-Identifier: Apache-2.0
//
// The Hccl* functions that torch_npu's ProcessGroupHCCL links to or looks up by name,
// for ranks on one machine. Here: the C interface, its argument checks, groups, and
// the order on streams; the work itself is in hccl_comm.cpp.
//
// A stream of the simulator does its work in the call, so a collective is over when
// its function returns. A send is over when its bytes are buffered, a receive when
// they are there.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <iterator>
#include <map>
#include <thread>
#include <unordered_map>
#include <utility>

#include "ascend_sim.h"
#include "hccl_comm.h"
#include "hccl_reduce.h"
#include "hccl_types.h"

#define HCCL_API extern "C" __attribute__((visibility("default")))

extern "C" int aclrtMalloc(void **p, size_t bytes, int policy);
extern "C" int aclrtFree(void *p);

namespace hccl_sim {
namespace {

using CommPtr = std::shared_ptr<Comm>;

struct Window {
  CommPtr comm;
  char *base;
  uint64_t bytes;
};

struct Process {
  std::mutex mutex;
  std::unordered_map<HcclComm, CommPtr> comms;
  std::unordered_map<void *, Window> windows;
  std::map<std::pair<HcclComm, char *>, uint64_t> ranges;   // HcclCommSetMemoryRange
  std::map<std::pair<HcclComm, char *>, uint64_t> actives;  // HcclCommActivateCommMemory
  std::map<int, HcclConfigValue> config;
  std::map<std::string, uint64_t> rank_tables;  // communicators made of each so far
};

// Never destroyed: torch_npu destroys communicators from static destructors too.
Process &process() {
  static Process *const state = new Process;
  return *state;
}

CommPtr find(HcclComm handle, const char *function) {
  Process &p = process();
  std::lock_guard<std::mutex> lock(p.mutex);
  const auto found = p.comms.find(handle);
  if (found != p.comms.end()) return found->second;
  report(HCCL_E_PTR, format("HCCL: %s was given %p, which is no communicator of this "
                            "process (destroyed already?)", function, handle));
  return nullptr;
}

HcclComm publish(CommPtr comm) {
  Process &p = process();
  std::lock_guard<std::mutex> lock(p.mutex);
  const HcclComm handle = comm.get();
  p.comms.emplace(handle, std::move(comm));
  return handle;
}

// ---- streams, graphs and groups ---------------------------------------------------

struct Region {
  void *p;
  uint64_t bytes;
};

using Work = std::function<HcclResult()>;

HcclResult submit(aclrtStream stream, const std::vector<Region> &writes, Work work) {
  if (ascend_sim_stream_capturing(stream))
    for (const Region &region : writes)
      if (region.bytes) ascend_sim_capture_will_write(stream, region.p, region.bytes);
  const int code = ascend_sim_capture_record(
      stream, [](void *argument) -> int { return (*static_cast<Work *>(argument))(); },
      new Work(std::move(work)), [](void *argument) { delete static_cast<Work *>(argument); });
  // The stream itself can refuse, with an error code of ACL.
  return code < 0 || code > HCCL_E_OOM ? HCCL_E_RUNTIME : (HcclResult)code;
}

struct GroupItem {
  CommPtr comm;
  aclrtStream stream;
  std::vector<Region> writes;
  Call transfer;  // op is kNone for a collective
  void *buffer;
  Work collective;
};

struct Group {
  int depth = 0;
  HcclResult failure = HCCL_SUCCESS;  // of a call in it
  std::vector<GroupItem> items;
};

thread_local Group group;

// All of them as if at once: first every send that can be buffered, so that no order
// of sends and receives among the ranks deadlocks.
HcclResult run_together(const std::vector<GroupItem> &items) {
  Comm::Transfers transfers;
  for (const GroupItem &item : items)
    if (item.transfer.op != Op::kNone)
      transfers.emplace_back(item.comm,
                             item.comm->start_transfer(item.transfer.op, item.buffer,
                                                       item.transfer.count, item.transfer.type,
                                                       item.transfer.peer));
  for (const auto &[comm, transfer] : transfers) comm->progress();
  HcclResult result = HCCL_SUCCESS;
  for (const GroupItem &item : items)
    if (item.transfer.op == Op::kNone && result == HCCL_SUCCESS) result = item.collective();
  const HcclResult finished = Comm::finish(transfers);
  return result == HCCL_SUCCESS ? finished : result;
}

// What a communicator's collectives hold of streams in a captured graph: one where vector
// cores expand them, else two (vllm-ascend's update_aclgraph_sizes).
HcclResult take_streams(const GroupItem &item) {
  const char *mode = getenv("HCCL_OP_EXPANSION_MODE");
  const uint32_t count = mode && strcmp(mode, "AIV") == 0 ? 1 : 2;
  if (item.comm->size() == 1) return HCCL_SUCCESS;
  const int code = ascend_sim_capture_takes_streams(item.stream, item.comm.get(), count);
  return code == ACL_SUCCESS ? HCCL_SUCCESS : HCCL_E_RUNTIME;
}

HcclResult submit_together(std::vector<GroupItem> items) {
  if (items.empty()) return HCCL_SUCCESS;
  for (const GroupItem &item : items)
    if (const HcclResult taken = take_streams(item); taken != HCCL_SUCCESS) return taken;
  std::vector<Region> writes;
  for (const GroupItem &item : items)
    writes.insert(writes.end(), item.writes.begin(), item.writes.end());
  const aclrtStream stream = items.front().stream;
  auto shared = std::make_shared<const std::vector<GroupItem>>(std::move(items));
  return submit(stream, writes, [shared] { return run_together(*shared); });
}

// While a group is open its calls wait for its end. One that cannot be made spoils the
// group: an exception between start and end leaves it open, and later calls would
// otherwise wait in it for ever without a word.
HcclResult join_group(GroupItem item) {
  if (group.failure != HCCL_SUCCESS)
    return report(group.failure, "HCCL: a call of the open HcclGroupStart failed before");
  group.failure = item.comm->usable(item.transfer);
  if (group.failure == HCCL_SUCCESS) group.items.push_back(std::move(item));
  return group.failure;
}

HcclResult issue(GroupItem item) {
  if (group.depth > 0) return join_group(std::move(item));
  if (item.transfer.op != Op::kNone) {
    std::vector<GroupItem> items;
    items.push_back(std::move(item));
    return submit_together(std::move(items));
  }
  if (const HcclResult taken = take_streams(item); taken != HCCL_SUCCESS) return taken;
  return submit(item.stream, item.writes, std::move(item.collective));
}

HcclResult issue(const CommPtr &comm, aclrtStream stream, std::vector<Region> writes,
                 Work collective) {
  return issue(GroupItem{comm, stream, std::move(writes), Call(), nullptr, std::move(collective)});
}

// ---- argument checks ----------------------------------------------------------------

// A rank that gives a wrong argument will not take part, so the others are told.
struct Checker {
  const CommPtr &comm;
  const Call call;
  HcclResult result = HCCL_SUCCESS;

  void fail(HcclResult code, const std::string &what) {
    if (result == HCCL_SUCCESS)
      result = comm->fail(code, format("HCCL: rank %u of communicator '%s' called %s: %s",
                                       comm->rank(), comm->name().c_str(), call.text().c_str(),
                                       what.c_str()));
    if (group.depth > 0) group.failure = result;
  }

  Checker &type() {
    if (type_bytes(call.type) == 0)
      fail(HCCL_E_PARA, format("there is no data type %u", call.type));
    return *this;
  }

  Checker &reduction() {
    type();
    if (call.reduce_op > HCCL_REDUCE_MIN)
      fail(HCCL_E_PARA, format("there is no reduction %u", call.reduce_op));
    else if (!can_reduce(call.type))
      fail(HCCL_E_NOT_SUPPORT, format("%s cannot be reduced", type_name(call.type)));
    return *this;
  }

  Checker &peer() {
    if (call.peer >= comm->size())
      fail(HCCL_E_PARA, format("the communicator has %u ranks", comm->size()));
    return *this;
  }

  Checker &stream(aclrtStream stream) {
    const int device = ascend_sim_stream_device(stream);
    if (device != comm->device())
      fail(HCCL_E_PARA, format("the stream belongs to npu:%d, the communicator to npu:%d", device,
                               comm->device()));
    return *this;
  }

  Checker &buffer(const char *name, const void *p, uint64_t elements) {
    const uint64_t bytes = elements * type_bytes(call.type);
    if (result != HCCL_SUCCESS || bytes == 0) return *this;
    if (!p)
      fail(HCCL_E_PTR, format("the %s buffer is null", name));
    else if (!ascend_sim_is_device_ptr(p))
      fail(HCCL_E_PARA,
           format("the %s buffer %p is host memory; HCCL takes device memory", name, p));
    else if (ascend_sim_ptr_device(p) != comm->device())
      fail(HCCL_E_PARA, format("the %s buffer lies on npu:%d, the communicator on npu:%d", name,
                               ascend_sim_ptr_device(p), comm->device()));
    else if (!ascend_sim_device_range(p, bytes))
      fail(HCCL_E_PARA, format("the %s buffer of %llu bytes runs out of its device allocation",
                               name, (unsigned long long)bytes));
    return *this;
  }

  // Buffer of one piece per rank.
  Checker &pieces(const char *name, const void *p, const std::vector<uint64_t> &counts,
                  const std::vector<uint64_t> &displacements) {
    const char *begin = static_cast<const char *>(p);
    for (size_t r = 0; r < counts.size(); r++)
      buffer(name, begin + displacements[r] * type_bytes(call.type), counts[r]);
    return *this;
  }

  // Array of one number per rank, in host memory.
  std::vector<uint64_t> numbers(const char *name, const void *array, uint64_t n) {
    if (result == HCCL_SUCCESS && !array) fail(HCCL_E_PTR, format("the array of %s is null", name));
    if (result == HCCL_SUCCESS && ascend_sim_is_device_ptr(array))
      fail(HCCL_E_PARA,
           format("the array of %s is device memory; HCCL reads it on the host", name));
    if (result != HCCL_SUCCESS) return std::vector<uint64_t>(n);
    const uint64_t *begin = static_cast<const uint64_t *>(array);
    return std::vector<uint64_t>(begin, begin + n);
  }
};

// ---- making communicators -------------------------------------------------------------

HcclResult config_name(const HcclCommConfigPrefix *config, std::string *name) {
  if (!config) return HCCL_SUCCESS;
  if (config->magic != HCCL_COMM_CONFIG_MAGIC)
    return report(HCCL_E_PARA, "HCCL: the communicator configuration was not set up by "
                               "HcclCommConfigInit");
  if (config->size >= sizeof(HcclCommConfigPrefix))
    name->assign(config->comm_name, strnlen(config->comm_name, sizeof config->comm_name));
  return HCCL_SUCCESS;
}

int current_device() { return ascend_sim_current_device(); }

SegmentAddress address_of(const HcclRootInfo *info) {
  static_assert(sizeof(SegmentAddress) <= HCCL_ROOT_INFO_BYTES, "root info is too small");
  SegmentAddress address;
  memcpy(&address, info->internal, sizeof address);
  return address;
}

HcclResult join(const SegmentAddress &address, uint32_t n_ranks, uint32_t rank,
                const HcclCommConfigPrefix *config, HcclComm *out) {
  std::string name;
  if (const HcclResult r = config_name(config, &name); r != HCCL_SUCCESS) return r;
  CommPtr comm;
  const HcclResult result =
      Comm::join(address, n_ranks, rank, current_device(), name, true, &comm);
  Comm::forget_segment(address);
  if (result == HCCL_SUCCESS) *out = publish(std::move(comm));
  return result;
}

HcclResult missing_argument(const char *function) {
  return report(HCCL_E_PTR, format("HCCL: %s was given a null pointer", function));
}

// Ranks that share only a rank table file meet at an abstract socket, whose name goes
// away with the process: rank 0 tells the others there where the segment is.
class Meeting {
 public:
  explicit Meeting(const std::string &key) {
    memset(&name_, 0, sizeof name_);
    name_.sun_family = AF_UNIX;
    const int n = snprintf(name_.sun_path + 1, sizeof name_.sun_path - 1, "ascend-sim-hccl-%s",
                           key.c_str());
    length_ = (socklen_t)(offsetof(sockaddr_un, sun_path) + 1 + (size_t)n);
  }

  ~Meeting() {
    stop_.store(true);
    if (server_.joinable()) server_.join();
    if (socket_ >= 0) close(socket_);
  }

  HcclResult host(const SegmentAddress &address) {
    socket_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (socket_ < 0 || bind(socket_, name(), length_) != 0 || listen(socket_, 64) != 0)
      return report(HCCL_E_NETWORK,
                    format("HCCL: rank 0 cannot wait for the other ranks of the rank "
                           "table: %s", errno == EADDRINUSE ? "another job uses the same table"
                                                            : strerror(errno)));
    server_ = std::thread([this, address] {
      while (!stop_.load()) {
        pollfd p = {socket_, POLLIN, 0};
        if (poll(&p, 1, 20) <= 0) continue;
        const int peer = accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC);
        if (peer < 0) continue;
        (void)!send(peer, &address, sizeof address, MSG_NOSIGNAL);
        close(peer);
      }
    });
    return HCCL_SUCCESS;
  }

  HcclResult ask(SegmentAddress *address) {
    for (double waited = 0; waited < time_limit_seconds(); waited += 0.02) {
      const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
      const bool got = fd >= 0 && connect(fd, name(), length_) == 0 &&
                       recv(fd, address, sizeof *address, MSG_WAITALL) == sizeof *address;
      if (fd >= 0) close(fd);
      if (got) return HCCL_SUCCESS;
      usleep(20000);
    }
    return report(HCCL_E_TIMEOUT, format("HCCL: rank 0 of the rank table did not come "
                                         "within %g s (ASCEND_SIM_HCCL_TIMEOUT)",
                                         time_limit_seconds()));
  }

 private:
  const sockaddr *name() const { return reinterpret_cast<const sockaddr *>(&name_); }

  sockaddr_un name_;
  socklen_t length_;
  int socket_ = -1;
  std::thread server_;
  std::atomic<bool> stop_{false};
};

HcclResult join_by_table(const char *path, uint32_t rank, const HcclCommConfigPrefix *config,
                         HcclComm *out) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    return report(HCCL_E_OPEN_FILE_FAILURE,
                  format("HCCL: cannot read the rank table %s: %s", path, strerror(errno)));
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  uint32_t n_ranks = 0;
  for (size_t at = text.find("\"rank_id\""); at != std::string::npos;
       at = text.find("\"rank_id\"", at + 1))
    n_ranks++;
  if (rank >= n_ranks)
    return report(HCCL_E_PARA, format("HCCL: the rank table %s has %u ranks, none is %u",
                                      path, n_ranks, rank));
  uint64_t generation;
  {
    Process &p = process();
    std::lock_guard<std::mutex> lock(p.mutex);
    generation = ++p.rank_tables[format("%s of rank %u", path, rank)];
  }
  Meeting meeting(format("%u-%zx-%llu", (unsigned)getuid(), std::hash<std::string>()(text),
                         (unsigned long long)generation));
  SegmentAddress address;
  HcclResult result;
  if (rank == 0) {
    result = Comm::create_segment(&address);
    if (result == HCCL_SUCCESS) {
      result = meeting.host(address);
      if (result != HCCL_SUCCESS) Comm::forget_segment(address);
    }
  } else {
    result = meeting.ask(&address);
  }
  return result == HCCL_SUCCESS ? join(address, n_ranks, rank, config, out) : result;
}

}  // namespace
}  // namespace hccl_sim

using namespace hccl_sim;

// ---- communicators ----------------------------------------------------------------------

HCCL_API HcclResult HcclGetRootInfo(HcclRootInfo *info) {
  if (!info) return missing_argument("HcclGetRootInfo");
  SegmentAddress address;
  const HcclResult result = Comm::create_segment(&address);
  memset(info, 0, sizeof *info);
  if (result == HCCL_SUCCESS) memcpy(info->internal, &address, sizeof address);
  return result;
}

HCCL_API HcclResult HcclGetRootInfoScalable(HcclRootInfo *info) { return HcclGetRootInfo(info); }

HCCL_API HcclResult HcclCommInitRootInfoConfig(uint32_t n_ranks, const HcclRootInfo *info,
                                               uint32_t rank, const HcclCommConfigPrefix *config,
                                               HcclComm *comm) {
  if (!info || !comm) return missing_argument("HcclCommInitRootInfoConfig");
  return join(address_of(info), n_ranks, rank, config, comm);
}

HCCL_API HcclResult HcclCommInitRootInfo(uint32_t n_ranks, const HcclRootInfo *info, uint32_t rank,
                                         HcclComm *comm) {
  if (!info || !comm) return missing_argument("HcclCommInitRootInfo");
  return join(address_of(info), n_ranks, rank, nullptr, comm);
}

// Several roots only spread the work of meeting; one is enough on one machine.
HCCL_API HcclResult HcclCommInitRootInfoScalable(uint32_t n_ranks, uint32_t n_roots,
                                                 const HcclRootInfo *infos, uint32_t rank,
                                                 uint32_t /*n_extra_roots*/,
                                                 const HcclCommConfigPrefix *config,
                                                 HcclComm *comm) {
  if (!infos || !comm) return missing_argument("HcclCommInitRootInfoScalable");
  if (n_roots == 0)
    return report(HCCL_E_PARA, "HCCL: HcclCommInitRootInfoScalable needs a root");
  for (uint32_t i = 1; i < n_roots; i++) Comm::forget_segment(address_of(&infos[i]));
  return join(address_of(&infos[0]), n_ranks, rank, config, comm);
}

HCCL_API HcclResult HcclCommInitClusterInfoConfig(const char *path, uint32_t rank,
                                                  const HcclCommConfigPrefix *config,
                                                  HcclComm *comm) {
  if (!path || !comm) return missing_argument("HcclCommInitClusterInfoConfig");
  return join_by_table(path, rank, config, comm);
}

HCCL_API HcclResult HcclCommInitClusterInfo(const char *path, uint32_t rank, HcclComm *comm) {
  if (!path || !comm) return missing_argument("HcclCommInitClusterInfo");
  return join_by_table(path, rank, nullptr, comm);
}

HCCL_API HcclResult HcclCommInitAll(uint32_t n, int32_t *devices, HcclComm *comms) {
  if (!devices || !comms) return missing_argument("HcclCommInitAll");
  for (uint32_t a = 0; a < n; a++)
    if (std::find(devices, devices + a, devices[a]) != devices + a)
      return report(HCCL_E_PARA, format("HCCL: HcclCommInitAll was given device %d twice",
                                        devices[a]));
  SegmentAddress address;
  HcclResult result = Comm::create_segment(&address);
  if (result != HCCL_SUCCESS) return result;
  std::vector<CommPtr> made(n);
  for (uint32_t r = 0; r < n && result == HCCL_SUCCESS; r++)
    result = Comm::join(address, n, r, devices[r], "", false, &made[r]);
  Comm::forget_segment(address);
  if (result != HCCL_SUCCESS) return result;
  for (uint32_t r = 0; r < n; r++) comms[r] = publish(std::move(made[r]));
  return HCCL_SUCCESS;
}

HCCL_API HcclResult HcclCreateSubCommConfig(HcclComm *comm, uint32_t n_ranks, uint32_t *ranks,
                                            uint64_t id, uint32_t new_rank,
                                            const HcclCommConfigPrefix *config, HcclComm *sub) {
  if (!comm || !sub) return missing_argument("HcclCreateSubCommConfig");
  const CommPtr parent = find(*comm, "HcclCreateSubCommConfig");
  if (!parent) return HCCL_E_PTR;
  // A rank that is not a member says so by no list.
  if (n_ranks == 0 && !ranks) {
    *sub = nullptr;
    return HCCL_SUCCESS;
  }
  if (n_ranks == 0 || !ranks) return missing_argument("HcclCreateSubCommConfig");
  const std::vector<uint32_t> members(ranks, ranks + n_ranks);
  if (new_rank >= n_ranks || members[new_rank] != parent->rank())
    return report(HCCL_E_PARA, format("HCCL: rank %u of communicator '%s' is not number "
                                      "%u of the sub-communicator's ranks", parent->rank(),
                                      parent->name().c_str(), new_rank));
  std::vector<uint32_t> sorted(members);
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end() ||
      sorted.back() >= parent->size())
    return report(HCCL_E_PARA, format("HCCL: the ranks of a sub-communicator of '%s' must "
                                      "be different and less than %u", parent->name().c_str(),
                                      parent->size()));
  SegmentAddress address;
  const HcclResult agreed = parent->agree_on_segment(id, members, new_rank, &address);
  return agreed == HCCL_SUCCESS ? join(address, n_ranks, new_rank, config, sub) : agreed;
}

HCCL_API HcclResult HcclCommDestroy(HcclComm handle) {
  const CommPtr comm = find(handle, "HcclCommDestroy");
  if (!comm) return HCCL_E_PTR;
  comm->leave();
  Process &p = process();
  std::lock_guard<std::mutex> lock(p.mutex);
  p.comms.erase(handle);
  for (auto it = p.windows.begin(); it != p.windows.end();)
    it = it->second.comm == comm ? p.windows.erase(it) : std::next(it);
  for (auto *ranges : {&p.ranges, &p.actives})
    for (auto it = ranges->begin(); it != ranges->end();)
      it = it->first.first == handle ? ranges->erase(it) : std::next(it);
  return HCCL_SUCCESS;
}

HCCL_API HcclResult HcclGetRankSize(HcclComm handle, uint32_t *size) {
  const CommPtr comm = find(handle, "HcclGetRankSize");
  if (!comm) return HCCL_E_PTR;
  if (!size) return missing_argument("HcclGetRankSize");
  *size = comm->size();
  return HCCL_SUCCESS;
}

HCCL_API HcclResult HcclGetRankId(HcclComm handle, uint32_t *rank) {
  const CommPtr comm = find(handle, "HcclGetRankId");
  if (!comm) return HCCL_E_PTR;
  if (!rank) return missing_argument("HcclGetRankId");
  *rank = comm->rank();
  return HCCL_SUCCESS;
}

// `name` holds HCCL_COMM_NAME_BYTES.
HCCL_API HcclResult HcclGetCommName(HcclComm handle, char *name) {
  const CommPtr comm = find(handle, "HcclGetCommName");
  if (!comm) return HCCL_E_PTR;
  if (!name) return missing_argument("HcclGetCommName");
  snprintf(name, HCCL_COMM_NAME_BYTES, "%s", comm->name().c_str());
  return HCCL_SUCCESS;
}

// Fused operators get a communicator by the name that HcclGetCommName gave.
HCCL_API HcclResult HcomGetCommHandleByGroup(const char *name, HcclComm *handle) {
  if (!name || !handle) return missing_argument("HcomGetCommHandleByGroup");
  const int device = current_device();
  Process &p = process();
  std::lock_guard<std::mutex> lock(p.mutex);
  for (const auto &[candidate, comm] : p.comms)
    if (comm->name() == name && comm->device() == device) {
      *handle = candidate;
      return HCCL_SUCCESS;
    }
  return report(HCCL_E_NOT_FOUND,
                format("HCCL: npu:%d has no communicator '%s'", device, name));
}

// Errors are returned by the call that meets them, none comes later.
HCCL_API HcclResult HcclGetCommAsyncError(HcclComm handle, HcclResult *error) {
  if (!find(handle, "HcclGetCommAsyncError")) return HCCL_E_PTR;
  if (!error) return missing_argument("HcclGetCommAsyncError");
  *error = HCCL_SUCCESS;
  return HCCL_SUCCESS;
}

HCCL_API const char *HcclGetErrorString(HcclResult code) {
  static const char *const texts[] = {
      "no error", "parameter error", "empty pointer", "memory error", "internal error",
      "not support feature", "not found specific resource", "resource unavailable",
      "call system interface error", "timeout", "open file fail", "tcp connect fail",
      "roce connect fail", "tcp transfer fail", "roce transfer fail", "call runtime api fail",
      "call driver api fail", "call profiling api fail", "call cce api fail",
      "call network api fail", "try again", "error cqe", "error communicator suspending",
      "retry constraint", "out of memory"};
  const size_t n = sizeof texts / sizeof *texts;
  return (size_t)code < n ? texts[code] : "unknown error";
}

// Number of the configuration items that this HCCL knows (HcclCommConfigCapability in
// CANN 9: buffer size, ..., buffer name). All are accepted; none changes a result.
HCCL_API uint32_t HcclGetCommConfigCapability(void) { return 12; }

HCCL_API HcclResult HcclSetConfig(int item, HcclConfigValue value) {
  Process &p = process();
  std::lock_guard<std::mutex> lock(p.mutex);
  p.config[item] = value;
  return HCCL_SUCCESS;
}

HCCL_API HcclResult HcclGetConfig(int item, HcclConfigValue *value) {
  if (!value) return missing_argument("HcclGetConfig");
  Process &p = process();
  std::lock_guard<std::mutex> lock(p.mutex);
  const auto found = p.config.find(item);
  *value = found == p.config.end() ? HcclConfigValue{0} : found->second;
  return HCCL_SUCCESS;
}

// There is nothing to bring back: a communicator that works is running, and one that
// failed has lost a rank or its order.
HCCL_API HcclResult HcclCommResume(HcclComm handle) {
  return find(handle, "HcclCommResume") ? HCCL_SUCCESS : HCCL_E_PTR;
}

HCCL_API HcclResult HcclCommSuspend(HcclComm handle) {
  const CommPtr comm = find(handle, "HcclCommSuspend");
  if (!comm) return HCCL_E_PTR;
  return report(HCCL_E_NOT_SUPPORT, "HCCL: HcclCommSuspend is not simulated");
}

// The simulated machine has no network cards to choose from.
HCCL_API HcclResult HcclCommWorkingDevNicSet(HcclComm handle, uint32_t *ranks, bool *use_backup,
                                             uint32_t n) {
  const CommPtr comm = find(handle, "HcclCommWorkingDevNicSet");
  if (!comm) return HCCL_E_PTR;
  if (!ranks || !use_backup) return missing_argument("HcclCommWorkingDevNicSet");
  for (uint32_t i = 0; i < n; i++)
    if (ranks[i] >= comm->size())
      return report(HCCL_E_PARA, format("HCCL: HcclCommWorkingDevNicSet was given rank "
                                        "%u of %u", ranks[i], comm->size()));
  return HCCL_SUCCESS;
}

// ---- registered memory --------------------------------------------------------------------
// On the device it lets HCCL work without a copy; results are the same. What a caller can
// get wrong is checked: whose memory it is, and that what is released was registered.

static HcclResult open_window(HcclComm handle, void *p, uint64_t bytes, void **window,
                              const char *function) {
  const CommPtr comm = find(handle, function);
  if (!comm) return HCCL_E_PTR;
  if (!p || !window) return missing_argument(function);
  if (!ascend_sim_device_range(p, bytes))
    return report(HCCL_E_PARA, format("HCCL: %s was given %llu bytes at %p, which are not "
                                      "device memory", function, (unsigned long long)bytes, p));
  Process &state = process();
  std::lock_guard<std::mutex> lock(state.mutex);
  static uint64_t last = 0;
  *window = reinterpret_cast<void *>(++last);
  state.windows.emplace(*window, Window{comm, static_cast<char *>(p), bytes});
  return HCCL_SUCCESS;
}

static HcclResult close_window(void *window, const char *function) {
  Process &state = process();
  std::lock_guard<std::mutex> lock(state.mutex);
  if (state.windows.erase(window)) return HCCL_SUCCESS;
  return report(HCCL_E_NOT_FOUND,
                format("HCCL: %s was given a handle that is not registered", function));
}

HCCL_API HcclResult HcclCommRegister(HcclComm comm, void *p, uint64_t bytes, void **handle,
                                     uint32_t /*flag*/) {
  return open_window(comm, p, bytes, handle, "HcclCommRegister");
}

HCCL_API HcclResult HcclCommDeregister(HcclComm /*comm*/, void *handle) {
  return close_window(handle, "HcclCommDeregister");
}

HCCL_API HcclResult HcclCommExchangeMem(HcclComm handle, void *window, uint32_t *peers,
                                        uint32_t n) {
  const CommPtr comm = find(handle, "HcclCommExchangeMem");
  if (!comm) return HCCL_E_PTR;
  if (n > 0 && !peers) return missing_argument("HcclCommExchangeMem");
  Process &state = process();
  std::lock_guard<std::mutex> lock(state.mutex);
  if (!state.windows.count(window))
    return report(HCCL_E_NOT_FOUND,
                  "HCCL: HcclCommExchangeMem was given a handle that is not registered");
  for (uint32_t i = 0; i < n; i++)
    if (peers[i] >= comm->size())
      return report(HCCL_E_PARA, format("HCCL: HcclCommExchangeMem was given rank %u of "
                                        "%u", peers[i], comm->size()));
  return HCCL_SUCCESS;
}

HCCL_API HcclResult HcclCommSymWinRegister(HcclComm comm, void *p, uint64_t bytes, void **window,
                                           uint32_t /*flag*/) {
  return open_window(comm, p, bytes, window, "HcclCommSymWinRegister");
}

HCCL_API HcclResult HcclCommSymWinDeregister(void *window) {
  return close_window(window, "HcclCommSymWinDeregister");
}

HCCL_API HcclResult HcclCommSymWinGet(HcclComm handle, void *p, size_t bytes, void **window,
                                      size_t *offset) {
  const CommPtr comm = find(handle, "HcclCommSymWinGet");
  if (!comm) return HCCL_E_PTR;
  if (!window || !offset) return missing_argument("HcclCommSymWinGet");
  char *begin = static_cast<char *>(p);
  Process &state = process();
  std::lock_guard<std::mutex> lock(state.mutex);
  for (const auto &[candidate, w] : state.windows)
    if (w.comm == comm && begin >= w.base && begin + bytes <= w.base + w.bytes) {
      *window = candidate;
      *offset = (size_t)(begin - w.base);
      return HCCL_SUCCESS;
    }
  return report(HCCL_E_NOT_FOUND, "HCCL: HcclCommSymWinGet: no window holds this memory");
}

static HcclResult set_range(std::map<std::pair<HcclComm, char *>, uint64_t> Process::*ranges,
                            HcclComm handle, void *p, uint64_t bytes, const char *function) {
  if (!find(handle, function)) return HCCL_E_PTR;
  if (!p) return missing_argument(function);
  Process &state = process();
  std::lock_guard<std::mutex> lock(state.mutex);
  (state.*ranges)[{handle, static_cast<char *>(p)}] = bytes;
  return HCCL_SUCCESS;
}

static HcclResult unset_range(std::map<std::pair<HcclComm, char *>, uint64_t> Process::*ranges,
                              HcclComm handle, void *p, const char *function) {
  if (!find(handle, function)) return HCCL_E_PTR;
  Process &state = process();
  std::lock_guard<std::mutex> lock(state.mutex);
  if ((state.*ranges).erase({handle, static_cast<char *>(p)})) return HCCL_SUCCESS;
  return report(HCCL_E_NOT_FOUND,
                format("HCCL: %s was given memory that was not set before", function));
}

HCCL_API HcclResult HcclCommSetMemoryRange(HcclComm comm, void *base, size_t bytes,
                                           size_t /*alignment*/, uint64_t /*flags*/) {
  return set_range(&Process::ranges, comm, base, bytes, "HcclCommSetMemoryRange");
}

HCCL_API HcclResult HcclCommUnsetMemoryRange(HcclComm comm, void *base) {
  return unset_range(&Process::ranges, comm, base, "HcclCommUnsetMemoryRange");
}

HCCL_API HcclResult HcclCommActivateCommMemory(HcclComm comm, void *p, size_t bytes,
                                               size_t /*offset*/, void * /*handle*/,
                                               uint64_t /*flags*/) {
  return set_range(&Process::actives, comm, p, bytes, "HcclCommActivateCommMemory");
}

HCCL_API HcclResult HcclCommDeactivateCommMemory(HcclComm comm, void *p) {
  return unset_range(&Process::actives, comm, p, "HcclCommDeactivateCommMemory");
}

HCCL_API HcclResult HcommMemAlloc(void **p, size_t bytes) {
  if (!p) return missing_argument("HcommMemAlloc");
  if (bytes == 0) return report(HCCL_E_PARA, "HCCL: HcommMemAlloc of no bytes");
  return aclrtMalloc(p, bytes, 0) == 0 ? HCCL_SUCCESS : HCCL_E_OOM;
}

HCCL_API HcclResult HcommMemFree(void *p) {
  return aclrtFree(p) == 0 ? HCCL_SUCCESS : HCCL_E_RUNTIME;
}

// ---- groups -------------------------------------------------------------------------------

HCCL_API HcclResult HcclGroupStart(void) {
  group.depth++;
  return HCCL_SUCCESS;
}

HCCL_API HcclResult HcclGroupEnd(void) {
  if (group.depth == 0)
    return report(HCCL_E_PARA, "HCCL: HcclGroupEnd without HcclGroupStart");
  if (--group.depth > 0) return HCCL_SUCCESS;
  std::vector<GroupItem> items;
  items.swap(group.items);
  const HcclResult failure = std::exchange(group.failure, HCCL_SUCCESS);
  if (failure != HCCL_SUCCESS)
    return report(failure, "HCCL: a call between HcclGroupStart and HcclGroupEnd failed");
  return submit_together(std::move(items));
}

// ---- collectives ----------------------------------------------------------------------------

HCCL_API HcclResult HcclAllReduce(void *send, void *recv, uint64_t count, HcclDataType type,
                                  HcclReduceOp op, HcclComm handle, aclrtStream stream) {
  const CommPtr comm = find(handle, "HcclAllReduce");
  if (!comm) return HCCL_E_PTR;
  Checker check{comm, Call{Op::kAllReduce, type, op, kNoRank, count}};
  check.reduction().stream(stream).buffer("send", send, count).buffer("receive", recv, count);
  if (check.result != HCCL_SUCCESS) return check.result;
  return issue(comm, stream, {{recv, count * type_bytes(type)}},
               [=] { return comm->all_reduce(send, recv, count, type, op); });
}

HCCL_API HcclResult HcclReduce(void *send, void *recv, uint64_t count, HcclDataType type,
                               HcclReduceOp op, uint32_t root, HcclComm handle,
                               aclrtStream stream) {
  const CommPtr comm = find(handle, "HcclReduce");
  if (!comm) return HCCL_E_PTR;
  const bool is_root = comm->rank() == root;
  Checker check{comm, Call{Op::kReduce, type, op, root, count}};
  check.reduction().peer().stream(stream).buffer("send", send, count);
  if (is_root) check.buffer("receive", recv, count);
  if (check.result != HCCL_SUCCESS) return check.result;
  return issue(comm, stream, {{recv, is_root ? count * type_bytes(type) : 0}},
               [=] { return comm->reduce(send, recv, count, type, op, root); });
}

HCCL_API HcclResult HcclBroadcast(void *buffer, uint64_t count, HcclDataType type, uint32_t root,
                                  HcclComm handle, aclrtStream stream) {
  const CommPtr comm = find(handle, "HcclBroadcast");
  if (!comm) return HCCL_E_PTR;
  Checker check{comm, Call{Op::kBroadcast, type, UINT32_MAX, root, count}};
  check.type().peer().stream(stream).buffer("data", buffer, count);
  if (check.result != HCCL_SUCCESS) return check.result;
  return issue(comm, stream, {{buffer, comm->rank() == root ? 0 : count * type_bytes(type)}},
               [=] { return comm->broadcast(buffer, count, type, root); });
}

HCCL_API HcclResult HcclAllGather(void *send, void *recv, uint64_t count, HcclDataType type,
                                  HcclComm handle, aclrtStream stream) {
  const CommPtr comm = find(handle, "HcclAllGather");
  if (!comm) return HCCL_E_PTR;
  const uint64_t total = count * comm->size();
  Checker check{comm, Call{Op::kAllGather, type, UINT32_MAX, kNoRank, count}};
  check.type().stream(stream).buffer("send", send, count).buffer("receive", recv, total);
  if (check.result != HCCL_SUCCESS) return check.result;
  return issue(comm, stream, {{recv, total * type_bytes(type)}},
               [=] { return comm->all_gather(send, recv, count, type); });
}

HCCL_API HcclResult HcclReduceScatter(void *send, void *recv, uint64_t count, HcclDataType type,
                                      HcclReduceOp op, HcclComm handle, aclrtStream stream) {
  const CommPtr comm = find(handle, "HcclReduceScatter");
  if (!comm) return HCCL_E_PTR;
  Checker check{comm, Call{Op::kReduceScatter, type, op, kNoRank, count}};
  check.reduction().stream(stream).buffer("send", send, count * comm->size())
      .buffer("receive", recv, count);
  if (check.result != HCCL_SUCCESS) return check.result;
  return issue(comm, stream, {{recv, count * type_bytes(type)}},
               [=] { return comm->reduce_scatter(send, recv, count, type, op); });
}

// On the root `send` holds one piece of `count` for each rank; elsewhere it is not read.
HCCL_API HcclResult HcclScatter(void *send, void *recv, uint64_t count, HcclDataType type,
                                uint32_t root, HcclComm handle, aclrtStream stream) {
  const CommPtr comm = find(handle, "HcclScatter");
  if (!comm) return HCCL_E_PTR;
  Checker check{comm, Call{Op::kScatter, type, UINT32_MAX, root, count}};
  check.type().peer().stream(stream).buffer("receive", recv, count);
  if (comm->rank() == root) check.buffer("send", send, count * comm->size());
  if (check.result != HCCL_SUCCESS) return check.result;
  return issue(comm, stream, {{recv, count * type_bytes(type)}},
               [=] { return comm->scatter(send, recv, count, type, root); });
}

static std::vector<Region> pieces_of(void *p, const std::vector<uint64_t> &counts,
                                     const std::vector<uint64_t> &displacements, uint32_t type) {
  std::vector<Region> regions;
  for (size_t r = 0; r < counts.size(); r++)
    regions.push_back({static_cast<char *>(p) + displacements[r] * type_bytes(type),
                       counts[r] * type_bytes(type)});
  return regions;
}

HCCL_API HcclResult HcclAllGatherV(void *send, uint64_t count, void *recv, const void *counts,
                                   const void *displacements, HcclDataType type, HcclComm handle,
                                   aclrtStream stream) {
  const CommPtr comm = find(handle, "HcclAllGatherV");
  if (!comm) return HCCL_E_PTR;
  Checker check{comm, Call{Op::kAllGatherV, type, UINT32_MAX, kNoRank, count}};
  check.type().stream(stream).buffer("send", send, count);
  const auto n = check.numbers("receive counts", counts, comm->size());
  const auto at = check.numbers("receive displacements", displacements, comm->size());
  check.pieces("receive", recv, n, at);
  if (check.result != HCCL_SUCCESS) return check.result;
  return issue(comm, stream, pieces_of(recv, n, at, type),
               [=] { return comm->all_gather_v(send, count, recv, n, at, type); });
}

HCCL_API HcclResult HcclReduceScatterV(void *send, const void *counts, const void *displacements,
                                       void *recv, uint64_t count, HcclDataType type,
                                       HcclReduceOp op, HcclComm handle, aclrtStream stream) {
  const CommPtr comm = find(handle, "HcclReduceScatterV");
  if (!comm) return HCCL_E_PTR;
  Checker check{comm, Call{Op::kReduceScatterV, type, op, kNoRank, count}};
  check.reduction().stream(stream).buffer("receive", recv, count);
  const auto n = check.numbers("send counts", counts, comm->size());
  const auto at = check.numbers("send displacements", displacements, comm->size());
  check.pieces("send", send, n, at);
  if (check.result != HCCL_SUCCESS) return check.result;
  return issue(comm, stream, {{recv, count * type_bytes(type)}},
               [=] { return comm->reduce_scatter_v(send, n, at, recv, count, type, op); });
}

HCCL_API HcclResult HcclAlltoAll(const void *send, uint64_t send_count, HcclDataType send_type,
                                 const void *recv, uint64_t recv_count, HcclDataType recv_type,
                                 HcclComm handle, aclrtStream stream) {
  const CommPtr comm = find(handle, "HcclAlltoAll");
  if (!comm) return HCCL_E_PTR;
  Checker check{comm, Call{Op::kAllToAll, send_type, UINT32_MAX, kNoRank, send_count}};
  check.type().stream(stream);
  if (send_type != recv_type || send_count != recv_count)
    check.fail(HCCL_E_PARA, format("it receives %llu of %s", (unsigned long long)recv_count,
                                   type_name(recv_type)));
  check.buffer("send", send, send_count * comm->size())
      .buffer("receive", recv, recv_count * comm->size());
  if (check.result != HCCL_SUCCESS) return check.result;
  void *out = const_cast<void *>(recv);
  return issue(comm, stream, {{out, recv_count * comm->size() * type_bytes(recv_type)}},
               [=] { return comm->all_to_all(send, out, send_count, send_type); });
}

static HcclResult all_to_all_v(Checker &check, const void *send, std::vector<uint64_t> send_counts,
                               std::vector<uint64_t> send_at, const void *recv,
                               std::vector<uint64_t> recv_counts, std::vector<uint64_t> recv_at,
                               HcclDataType recv_type, aclrtStream stream) {
  if (check.call.type != (uint32_t)recv_type)
    check.fail(HCCL_E_PARA, format("it receives %s", type_name(recv_type)));
  check.pieces("send", send, send_counts, send_at).pieces("receive", recv, recv_counts, recv_at);
  if (check.result != HCCL_SUCCESS) return check.result;
  void *out = const_cast<void *>(recv);
  const CommPtr comm = check.comm;
  return issue(comm, stream, pieces_of(out, recv_counts, recv_at, recv_type), [=] {
    return comm->all_to_all_v(send, send_counts, send_at, out, recv_counts, recv_at, recv_type);
  });
}

HCCL_API HcclResult HcclAlltoAllV(const void *send, const void *send_counts, const void *send_at,
                                  HcclDataType send_type, const void *recv, const void *recv_counts,
                                  const void *recv_at, HcclDataType recv_type, HcclComm handle,
                                  aclrtStream stream) {
  const CommPtr comm = find(handle, "HcclAlltoAllV");
  if (!comm) return HCCL_E_PTR;
  const uint64_t n = comm->size();
  Checker check{comm, Call{Op::kAllToAllV, send_type, UINT32_MAX, kNoRank, 0}};
  check.type().stream(stream);
  return all_to_all_v(check, send, check.numbers("send counts", send_counts, n),
                      check.numbers("send displacements", send_at, n), recv,
                      check.numbers("receive counts", recv_counts, n),
                      check.numbers("receive displacements", recv_at, n), recv_type, stream);
}

// `matrix` holds, row by row, the elements that each rank sends to each; buffers are packed.
HCCL_API HcclResult HcclAlltoAllVC(const void *send, const void *matrix, HcclDataType send_type,
                                   const void *recv, HcclDataType recv_type, HcclComm handle,
                                   aclrtStream stream) {
  const CommPtr comm = find(handle, "HcclAlltoAllVC");
  if (!comm) return HCCL_E_PTR;
  const uint64_t n = comm->size();
  Checker check{comm, Call{Op::kAllToAllV, send_type, UINT32_MAX, kNoRank, 0}};
  check.type().stream(stream);
  const auto all = check.numbers("counts", matrix, n * n);
  std::vector<uint64_t> send_counts(n), send_at(n), recv_counts(n), recv_at(n);
  for (uint64_t r = 0; r < n; r++) {
    send_counts[r] = all[comm->rank() * n + r];
    recv_counts[r] = all[r * n + comm->rank()];
    if (r > 0) {
      send_at[r] = send_at[r - 1] + send_counts[r - 1];
      recv_at[r] = recv_at[r - 1] + recv_counts[r - 1];
    }
  }
  return all_to_all_v(check, send, send_counts, send_at, recv, recv_counts, recv_at, recv_type,
                      stream);
}

HCCL_API HcclResult HcclBarrier(HcclComm handle, aclrtStream stream) {
  const CommPtr comm = find(handle, "HcclBarrier");
  if (!comm) return HCCL_E_PTR;
  Checker check{comm, Call{Op::kBarrier, 0, UINT32_MAX, kNoRank, 0}};
  check.stream(stream);
  if (check.result != HCCL_SUCCESS) return check.result;
  return issue(comm, stream, {}, [=] { return comm->barrier(); });
}

// ---- sends and receives -----------------------------------------------------------------------

static HcclResult transfer_item(const CommPtr &comm, Op op, void *buffer, uint64_t count,
                                HcclDataType type, uint32_t peer, aclrtStream stream,
                                GroupItem *item) {
  Checker check{comm, Call{op, type, UINT32_MAX, peer, count}};
  check.type().peer().stream(stream).buffer(op == Op::kSend ? "send" : "receive", buffer, count);
  *item = GroupItem{comm, stream, {}, check.call, buffer, nullptr};
  if (op == Op::kRecv) item->writes.push_back({buffer, count * type_bytes(type)});
  return check.result;
}

HCCL_API HcclResult HcclSend(void *buffer, uint64_t count, HcclDataType type, uint32_t destination,
                             HcclComm handle, aclrtStream stream) {
  const CommPtr comm = find(handle, "HcclSend");
  if (!comm) return HCCL_E_PTR;
  GroupItem item;
  const HcclResult checked =
      transfer_item(comm, Op::kSend, buffer, count, type, destination, stream, &item);
  return checked == HCCL_SUCCESS ? issue(std::move(item)) : checked;
}

HCCL_API HcclResult HcclRecv(void *buffer, uint64_t count, HcclDataType type, uint32_t source,
                             HcclComm handle, aclrtStream stream) {
  const CommPtr comm = find(handle, "HcclRecv");
  if (!comm) return HCCL_E_PTR;
  GroupItem item;
  const HcclResult checked =
      transfer_item(comm, Op::kRecv, buffer, count, type, source, stream, &item);
  return checked == HCCL_SUCCESS ? issue(std::move(item)) : checked;
}

HCCL_API HcclResult HcclBatchSendRecv(HcclSendRecvItem *items, uint32_t n, HcclComm handle,
                                      aclrtStream stream) {
  const CommPtr comm = find(handle, "HcclBatchSendRecv");
  if (!comm) return HCCL_E_PTR;
  if (n > 0 && !items) return missing_argument("HcclBatchSendRecv");
  std::vector<GroupItem> together(n);
  for (uint32_t i = 0; i < n; i++) {
    if (items[i].sendRecvType != HCCL_SEND && items[i].sendRecvType != HCCL_RECV)
      return comm->fail(HCCL_E_PARA, format("HCCL: rank %u of communicator '%s': item %u of "
                                            "HcclBatchSendRecv neither sends nor receives",
                                            comm->rank(), comm->name().c_str(), i));
    const HcclResult checked = transfer_item(
        comm, items[i].sendRecvType == HCCL_SEND ? Op::kSend : Op::kRecv, items[i].buf,
        items[i].count, items[i].dataType, items[i].remoteRank, stream, &together[i]);
    if (checked != HCCL_SUCCESS) return checked;
  }
  if (group.depth == 0) return submit_together(std::move(together));
  for (GroupItem &item : together)
    if (const HcclResult joined = join_group(std::move(item)); joined != HCCL_SUCCESS)
      return joined;
  return HCCL_SUCCESS;
}
