// SPDX-License-Identifier: Apache-2.0
//
// Lets a torch_npu load beside a CUDA build of torch whose allocator options have the same
// names: torch 2.14's CUDA library and torch_npu 2.14 both register
// "pinned_reserve_segment_size_mb", which torch takes for a mistake and ends the process.
// CPU builds do not have the clash, but few indexes carry them.
#include <string>
#include <unordered_set>

// Declared here, and weak, because older releases of torch do not have it.
namespace c10::CachingAllocator {
class AcceleratorAllocatorConfig {
 public:
  static std::unordered_set<std::string> &getMutableKeys() __attribute__((weak));
};
}  // namespace c10::CachingAllocator

namespace {
std::unordered_set<std::string> *set_aside = nullptr;

std::unordered_set<std::string> *known() {
  using c10::CachingAllocator::AcceleratorAllocatorConfig;
  std::unordered_set<std::string> &(*get)() = &AcceleratorAllocatorConfig::getMutableKeys;
  return get ? &get() : nullptr;
}
}  // namespace

// Forget the registered names until torch_npu has registered its own.
extern "C" __attribute__((visibility("default"))) void ascend_sim_set_allocator_options_aside() {
  if (auto *keys = known()) {
    set_aside = new std::unordered_set<std::string>(*keys);
    keys->clear();
  }
}

extern "C" __attribute__((visibility("default"))) void ascend_sim_bring_allocator_options_back() {
  if (auto *keys = known(); keys && set_aside) keys->insert(set_aside->begin(), set_aside->end());
}
