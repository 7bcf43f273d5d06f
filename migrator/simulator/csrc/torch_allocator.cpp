// SPDX-License-Identifier: Apache-2.0
//
// Garbage in the memory that torch_npu's caching allocator gives out, and other garbage in
// what it gets back, so that whoever still reads it sees that. A library of its own, compiled
// against the headers of torch_npu where its allocator tells of what it does (2.8 does not).
#include <torch_npu/csrc/core/npu/NPUCachingAllocator.h>

// ascend_sim.h names error codes that the headers of ACL name, too.
extern "C" void ascend_sim_fill_fresh(void *p, size_t bytes);
extern "C" void ascend_sim_fill_freed(void *p, size_t bytes);

extern "C" __attribute__((visibility("default"))) void ascend_sim_watch_allocator() {
  using namespace c10_npu::NPUCachingAllocator;
  attachAllocatorTraceTracker([](const TraceEntry &entry) {
    void *p = reinterpret_cast<void *>(entry.addr_);
    const size_t bytes = static_cast<size_t>(entry.size_);
    if (entry.action_ == TraceEntry::ALLOC) ascend_sim_fill_fresh(p, bytes);
    if (entry.action_ == TraceEntry::FREE_COMPLETED) ascend_sim_fill_freed(p, bytes);
  });
}
