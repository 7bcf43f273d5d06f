// SPDX-License-Identifier: Apache-2.0
//
// The ACL runtime: addresses and physical memory apart (torch_npu's expandable segments), and
// memory of other processes.
#include "acl_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <set>
#include <string>

using namespace acl_sim;

namespace {
struct Physical {
  int fd;
  size_t bytes;
  int device;
};
std::set<Physical *> physicals;
std::map<std::string, char *> imported;
// Its lock is the last to be taken: a write that is not allowed asks for a piece, whoever holds
// the state's.
std::map<char *, size_t> &mapped = *new std::map<char *, size_t>;
std::mutex &mapped_mutex = *new std::mutex;
}  // namespace

std::map<char *, size_t> acl_sim::mappings() {
  std::lock_guard<std::mutex> lock(mapped_mutex);
  return mapped;
}

bool acl_sim::mapping_of(const void *p, char **start, size_t *bytes) {
  std::lock_guard<std::mutex> lock(mapped_mutex);
  auto it = mapped.upper_bound(static_cast<char *>(const_cast<void *>(p)));
  if (it == mapped.begin() || static_cast<const char *>(p) >= (--it)->first + it->second) return false;
  *start = it->first;
  *bytes = it->second;
  return true;
}

ACL_API int aclrtReserveMemAddress(void **p, size_t bytes, size_t, void *, uint64_t) {
  int device = 0;
  if (int code = need_device(&device)) return code;
  void *at = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return ascend_sim_error(ACL_ERROR_RT_MEMORY_ALLOCATION, "no %zu bytes of address space", bytes);
  Guard guard(state_mutex);
  ranges[static_cast<char *>(at)] = {bytes, device};
  have_ranges = true;
  *p = at;
  return ACL_SUCCESS;
}

ACL_API int aclrtReleaseMemAddress(void *p) {
  Guard guard(state_mutex);
  auto it = ranges.find(static_cast<char *>(p));
  if (it == ranges.end()) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%p is not a reserved address", p);
  munmap(p, it->second.bytes);
  ranges.erase(it);
  return ACL_SUCCESS;
}

ACL_API int aclrtMallocPhysical(void **handle, size_t bytes, const void *, uint64_t) {
  int device = 0;
  if (int code = need_device(&device)) return code;
  size_t size = round_up(bytes, kPage);
  if (!take_memory(config().physical[device], size))
    return ascend_sim_error(ACL_ERROR_RT_MEMORY_ALLOCATION, "out of memory on device %d: %zu bytes asked for", device,
                            size);
  int fd = memory_file(size);
  if (fd < 0) {
    give_memory(config().physical[device], size);
    return ascend_sim_error(ACL_ERROR_RT_MEMORY_ALLOCATION, "the host has no room for %zu bytes", size);
  }
  Guard guard(state_mutex);
  Physical *made = new Physical{fd, size, device};
  physicals.insert(made);
  *handle = made;
  return ACL_SUCCESS;
}

ACL_API int aclrtFreePhysical(void *handle) {
  Guard guard(state_mutex);
  Physical *p = static_cast<Physical *>(handle);
  if (!physicals.erase(p)) return ascend_sim_error(ACL_ERROR_RT_INVALID_HANDLE, "%p is not physical memory", handle);
  close(p->fd);
  give_memory(config().physical[p->device], p->bytes);
  delete p;
  return ACL_SUCCESS;
}

ACL_API int aclrtMapMem(void *at, size_t bytes, size_t offset, void *handle, uint64_t) {
  Guard guard(state_mutex);
  Physical *p = static_cast<Physical *>(handle);
  if (!physicals.count(p) || offset + bytes > p->bytes || !ascend_sim_device_range(at, bytes))
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclrtMapMem of %zu bytes at %p", bytes, at);
  void *got = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, p->fd, static_cast<off_t>(offset));
  if (got == MAP_FAILED) return ascend_sim_error(ACL_ERROR_RT_INTERNAL_ERROR, "cannot map %zu bytes", bytes);
  std::lock_guard<std::mutex> lock(mapped_mutex);
  mapped[static_cast<char *>(at)] = bytes;
  return ACL_SUCCESS;
}

ACL_API int aclrtUnmapMem(void *at) {
  Guard guard(state_mutex);
  std::lock_guard<std::mutex> lock(mapped_mutex);
  auto it = mapped.find(static_cast<char *>(at));
  if (it == mapped.end()) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "nothing is mapped at %p", at);
  mmap(at, it->second, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  mapped.erase(it);
  return ACL_SUCCESS;
}

// Memory of another process: the key says where its file is.
ACL_API int aclrtIpcMemGetExportKey(void *p, size_t bytes, char *key, size_t length, uint64_t) {
  Guard guard(state_mutex);
  int device = arena_of(p);
  if (device < 0 || !ascend_sim_device_range(p, bytes))
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%p is not device memory to export", p);
  size_t offset = static_cast<size_t>(static_cast<char *>(p) - arenas[device].base.load());
  int n = snprintf(key, length, "%d:%d:%zx:%zx", getpid(), arenas[device].fd, offset, round_up(bytes, kPage));
  if (n < 0 || static_cast<size_t>(n) >= length)
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "an export key does not fit into %zu bytes", length);
  return ACL_SUCCESS;
}

ACL_API int aclrtIpcMemSetImportPid(const char *, int32_t *, size_t) { return ACL_SUCCESS; }

ACL_API int aclrtIpcMemImportByKey(void **p, const char *key, uint64_t) {
  int device = 0, pid = 0, fd = 0;
  size_t offset = 0, bytes = 0;
  if (int code = need_device(&device)) return code;
  if (sscanf(key, "%d:%d:%zx:%zx", &pid, &fd, &offset, &bytes) != 4)
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "'%s' is not an export key", key);
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
  int file = open(path, O_RDWR | O_CLOEXEC);
  size_t start = offset / kPage * kPage;
  void *at = file < 0 ? MAP_FAILED
                      : mmap(nullptr, bytes + offset - start, PROT_READ | PROT_WRITE, MAP_SHARED, file,
                             static_cast<off_t>(start));
  if (file >= 0) close(file);
  if (at == MAP_FAILED)
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "cannot reach the memory of process %d: %s", pid,
                            strerror(errno));
  Guard guard(state_mutex);
  ranges[static_cast<char *>(at)] = {bytes + offset - start, device};
  have_ranges = true;
  imported[key] = static_cast<char *>(at);
  *p = static_cast<char *>(at) + (offset - start);
  return ACL_SUCCESS;
}

ACL_API int aclrtIpcMemClose(const char *key) {
  Guard guard(state_mutex);
  auto it = imported.find(key);
  if (it == imported.end()) return ACL_SUCCESS;  // the exporter's own key
  munmap(it->second, ranges[it->second].bytes);
  ranges.erase(it->second);
  imported.erase(it);
  return ACL_SUCCESS;
}
