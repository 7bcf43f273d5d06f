// SPDX-License-Identifier: Apache-2.0
//
// The ACL runtime: device memory and pinned host memory.
#include "acl_defer.h"
#include "acl_memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <utility>

namespace acl_sim {

Arena arenas[kMaxDevices];
std::map<char *, Range> ranges;
std::atomic<bool> have_ranges{false};

int memory_file(size_t bytes) {
  int fd = static_cast<int>(syscall(SYS_memfd_create, "ascend_sim", 1U /* MFD_CLOEXEC */));
  if (fd >= 0 && ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
    close(fd);
    fd = -1;
  }
  return fd;
}

int arena_of(const void *p) {
  const char *c = static_cast<const char *>(p);
  for (int d = 0; d < config().count; ++d) {
    const char *base = arenas[d].base.load(std::memory_order_acquire);
    if (base && c >= base && c < base + arenas[d].span) return d;
  }
  return -1;
}

namespace {

std::map<char *, size_t> pinned;  // page-locked host memory

constexpr uint64_t kFresh = 0x7fff7fff7fff7fffu;
constexpr uint64_t kFreed = 0x7ffb7ffb7ffb7ffbu;
constexpr size_t kFilledWhole = size_t{32} << 20;
constexpr size_t kFilledEnd = size_t{1} << 20;

void fill_all(char *p, size_t bytes, uint64_t pattern) {
  const size_t words = bytes / sizeof pattern;
  uint64_t *at = reinterpret_cast<uint64_t *>(p);
  for (size_t i = 0; i < words; ++i) __builtin_memcpy(at + i, &pattern, sizeof pattern);
  memcpy(p + words * sizeof pattern, &pattern, bytes - words * sizeof pattern);
}

void fill(void *p, size_t bytes, uint64_t pattern) {
  char *at = static_cast<char *>(p);
  // What runs late must not find memory filled at once.
  if (!ascend_sim_garbage() || ascend_sim_deferring()) return;
  if (bytes <= kFilledWhole) return fill_all(at, bytes, pattern);
  fill_all(at, kFilledEnd, pattern);
  fill_all(at + (bytes - kFilledEnd) / sizeof pattern * sizeof pattern,
           bytes - (bytes - kFilledEnd) / sizeof pattern * sizeof pattern, pattern);
}

bool open_arena(int device) {
  Arena &a = arenas[device];
  if (a.base.load()) return true;
  size_t span = round_up(config().memory * 2 + (size_t{1} << 30), kHugePage);
  int fd = memory_file(span);
  if (fd < 0) return false;
  void *p = mmap(nullptr, span, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (p == MAP_FAILED) {
    close(fd);
    return false;
  }
  a.fd = fd;
  a.span = span;
  a.holes[0] = span;
  a.base.store(static_cast<char *>(p));
  return true;
}

const std::pair<char *const, Range> *range_of(const void *p) {
  if (!have_ranges.load()) return nullptr;
  char *c = static_cast<char *>(const_cast<void *>(p));
  auto it = ranges.upper_bound(c);
  if (it == ranges.begin()) return nullptr;
  --it;
  return c < it->first + it->second.bytes ? &*it : nullptr;
}

int device_malloc(void **p, size_t bytes, const char *function) {
  int device = 0;
  if (!p || bytes == 0) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%s of %zu bytes", function, bytes);
  if (int code = need_device(&device)) return code;
  *p = nullptr;
  size_t size = round_up(bytes, bytes >= kHugePage / 2 ? kHugePage : kPage);
  int physical = config().physical[device];
  if (!take_memory(physical, size))
    return ascend_sim_error(ACL_ERROR_RT_MEMORY_ALLOCATION,
                            "out of memory on device %d: %zu bytes asked for, %zu of %zu in use", device, size,
                            used_memory(physical), config().memory);
  Guard guard(state_mutex);
  Arena &a = arenas[device];
  if (open_arena(device)) {
    for (auto it = a.holes.begin(); it != a.holes.end(); ++it) {
      if (it->second < size) continue;
      size_t offset = it->first, rest = it->second - size;
      a.holes.erase(it);
      if (rest) a.holes[offset + size] = rest;
      a.live[offset] = size;
      *p = a.base.load() + offset;
      fill(*p, size, kFresh);
      return ACL_SUCCESS;
    }
  }
  give_memory(physical, size);
  return ascend_sim_error(ACL_ERROR_RT_MEMORY_ALLOCATION, "the host has no room for %zu bytes of device %d", size,
                          device);
}

int device_free(void *p) {
  Direct nothing_is_queued;
  Guard guard(state_mutex);
  int device = arena_of(p);
  if (device < 0) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclrtFree of %p, which is not device memory", p);
  Arena &a = arenas[device];
  size_t offset = static_cast<size_t>(static_cast<char *>(p) - a.base.load());
  auto it = a.live.find(offset);
  if (it == a.live.end())
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclrtFree of %p, which is not the start of an allocation", p);
  size_t bytes = it->second;
  a.live.erase(it);
  madvise(p, bytes, MADV_REMOVE);
  auto hole = a.holes.emplace(offset, bytes).first;
  auto next = std::next(hole);
  if (next != a.holes.end() && hole->first + hole->second == next->first) {
    hole->second += next->second;
    a.holes.erase(next);
  }
  if (hole != a.holes.begin()) {
    auto before = std::prev(hole);
    if (before->first + before->second == hole->first) {
      before->second += hole->second;
      a.holes.erase(hole);
    }
  }
  give_memory(config().physical[device], bytes);
  return ACL_SUCCESS;
}

}  // namespace

}  // namespace acl_sim

using namespace acl_sim;

namespace {
std::atomic<bool> &garbage() {
  static std::atomic<bool> wanted{[] {
    const char *text = getenv("ASCEND_SIM_GARBAGE");
    return !text || strcmp(text, "0") != 0;
  }()};
  return wanted;
}
}  // namespace

int ascend_sim_garbage(void) { return garbage().load(std::memory_order_relaxed); }
void ascend_sim_set_garbage(int wanted) { garbage() = wanted != 0; }

void ascend_sim_fill_fresh(void *p, size_t bytes) { fill(p, bytes, kFresh); }
void ascend_sim_fill_freed(void *p, size_t bytes) { fill(p, bytes, kFreed); }

int ascend_sim_ptr_device(const void *p) {
  int device = arena_of(p);
  if (device >= 0 || !have_ranges.load()) return device;
  Guard guard(state_mutex);
  const auto *range = range_of(p);
  return range ? range->second.device : -1;
}

int ascend_sim_is_device_ptr(const void *p) { return ascend_sim_ptr_device(p) >= 0; }

int ascend_sim_device_range(const void *p, size_t bytes) {
  Guard guard(state_mutex);
  const char *c = static_cast<const char *>(p);
  int device = arena_of(p);
  if (device < 0) {
    const auto *range = range_of(p);
    return range && c + bytes <= range->first + range->second.bytes;
  }
  const Arena &a = arenas[device];
  size_t offset = static_cast<size_t>(c - a.base.load());
  auto it = a.live.upper_bound(offset);
  if (it == a.live.begin()) return 0;
  --it;
  return offset + bytes <= it->first + it->second;
}

ACL_API int aclrtMalloc(void **p, size_t bytes, int) { return device_malloc(p, bytes, "aclrtMalloc"); }
ACL_API int aclrtMallocAlign32(void **p, size_t bytes, int) { return device_malloc(p, bytes, "aclrtMallocAlign32"); }
ACL_API int aclrtFree(void *p) { return device_free(p); }

ACL_API int aclrtGetMemInfo(int, size_t *free_bytes, size_t *total) {
  int device = 0;
  if (int code = need_device(&device)) return code;
  size_t used = used_memory(config().physical[device]);
  *total = config().memory;
  *free_bytes = used < *total ? *total - used : 0;
  return ACL_SUCCESS;
}

ACL_API int aclrtMallocHost(void **p, size_t bytes) {
  if (!p || bytes == 0) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclrtMallocHost of %zu bytes", bytes);
  // Whole pages: they can be guarded without what else may lie on them.
  bytes = round_up(bytes, kPage);
  if (posix_memalign(p, kPage, bytes))
    return ascend_sim_error(ACL_ERROR_RT_MEMORY_ALLOCATION, "the host has no room for %zu pinned bytes", bytes);
  Guard guard(state_mutex);
  pinned[static_cast<char *>(*p)] = bytes;
  return ACL_SUCCESS;
}

ACL_API int aclrtMallocHostWithCfg(void **p, uint64_t bytes, void *) { return aclrtMallocHost(p, bytes); }

ACL_API int aclrtFreeHost(void *p) {
  {
    Guard guard(state_mutex);
    if (!pinned.erase(static_cast<char *>(p)))
      return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclrtFreeHost of %p, which is not pinned memory", p);
  }
  free(p);
  return ACL_SUCCESS;
}

ACL_API int aclrtHostRegisterV2(void *p, uint64_t bytes, uint32_t) {
  if (!p || ascend_sim_is_device_ptr(p))
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%p is not host memory to register", p);
  Guard guard(state_mutex);
  pinned[static_cast<char *>(p)] = bytes;
  return ACL_SUCCESS;
}

ACL_API int aclrtHostRegister(void *p, uint64_t bytes, int, void **device_view) {
  if (device_view) *device_view = p;
  return aclrtHostRegisterV2(p, bytes, 0);
}

ACL_API int aclrtHostUnregister(void *p) {
  Guard guard(state_mutex);
  if (!pinned.erase(static_cast<char *>(p)))
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%p was not registered", p);
  return ACL_SUCCESS;
}

bool acl_sim::pinned_block(const void *p, char **start, size_t *bytes) {
  Guard guard(state_mutex);
  const char *c = static_cast<const char *>(p);
  auto it = pinned.upper_bound(const_cast<char *>(c));
  if (it == pinned.begin() || (--it, c >= it->first + it->second)) return false;
  *start = it->first;
  *bytes = it->second;
  return true;
}

int ascend_sim_is_pinned(const void *p) {
  char *start;
  size_t bytes;
  return pinned_block(p, &start, &bytes);
}

struct PointerAttributes {  // aclrtPtrAttributes
  uint32_t id;
  int32_t type;  // 0 pinned host, 1 device, 2 neither
  uint32_t page;
  uint32_t reserved[4];
};

ACL_API int aclrtPointerGetAttributes(const void *p, PointerAttributes *attributes) {
  memset(attributes, 0, sizeof *attributes);
  attributes->page = kPage;
  int device = ascend_sim_ptr_device(p);
  if (device >= 0) {
    attributes->id = static_cast<uint32_t>(device);
    attributes->type = 1;
    return ACL_SUCCESS;
  }
  attributes->type = ascend_sim_is_pinned(p) ? 0 : 2;
  return ACL_SUCCESS;
}
