// SPDX-License-Identifier: Apache-2.0
//
// Device memory of this process, and the account of it that processes share.
#ifndef ASCEND_SIM_ACL_MEMORY_H_
#define ASCEND_SIM_ACL_MEMORY_H_

#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <map>
#include <mutex>
#include <utility>

#include "acl_process.h"

namespace acl_sim {

constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t{2} << 20;

// The account of a physical device, over all processes of the machine.
// False where that much is not free.
bool take_memory(int physical, size_t bytes);
void give_memory(int physical, size_t bytes);
size_t used_memory(int physical);

// Streams of a physical device, over all processes of the machine; a device has kStreams.
// False where that many are not free.
constexpr uint32_t kStreams = 2048;
bool take_streams(int physical, uint32_t count);
void give_streams(int physical, uint32_t count);
uint32_t used_streams(int physical);

// Whether what a device needs for itself is taken of its memory: where it is at most a
// thirty-second of it, so that devices made small for tiny models keep what they have, or as
// ASCEND_SIM_OVERHEADS (0 or 1) says.
bool counts_overhead(size_t bytes);

// The memory of one device in this process: a sparse file in memory, mapped once.
// A file, so that another process can map a piece of it (IPC); one, so that telling
// a device pointer is a comparison. Its span is larger than the device, because the
// device does not fragment and a first-fit heap does.
struct Arena {
  std::atomic<char *> base{nullptr};
  size_t span = 0;
  int fd = -1;
  std::map<size_t, size_t> holes;  // offset → bytes
  std::map<size_t, size_t> live;   // offset → bytes
};

struct Range {
  size_t bytes;
  int device;
};

extern Arena arenas[kMaxDevices];
// Address ranges beside the arenas: reserved for mapping, or another process's memory.
extern std::map<char *, Range> ranges;
extern std::atomic<bool> have_ranges;

inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// A file in memory of that size; -1 where the host has no room.
int memory_file(size_t bytes);
// The pinned host memory that `p` lies in, by its whole pages where it was made here; false
// where it lies in none.
bool pinned_block(const void *p, char **start, size_t *bytes);
// Device in whose arena `p` lies, -1 if in none.
int arena_of(const void *p);
// The pieces of reserved addresses that have physical memory behind them now, as torch_npu's
// expandable segments do; start → bytes.
std::map<char *, size_t> mappings();
// The piece that `p` lies in; false if it lies in none.
bool mapping_of(const void *p, char **start, size_t *bytes);

}  // namespace acl_sim

#endif  // ASCEND_SIM_ACL_MEMORY_H_
