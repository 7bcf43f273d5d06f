// SPDX-License-Identifier: Apache-2.0
//
// What a program asks of its devices, told to whoever counts it.
#include "ascend_sim.h"

#include <atomic>

namespace {

std::atomic<ascend_sim_observer *> observer{nullptr};

// Of the operators that this thread is inside of: how many, and what has been launched there.
thread_local int depth = 0;
thread_local int inside = 0;

}  // namespace

void ascend_sim_set_observer(ascend_sim_observer *observe) { observer.store(observe); }

int ascend_sim_observed(void) { return observer.load(std::memory_order_relaxed) != nullptr; }

void ascend_sim_observe(const char *kind, const char *what, const char *dtypes, uint64_t amount) {
  auto *observe = observer.load(std::memory_order_relaxed);
  if (!observe) return;
  if (depth > 0) ++inside;
  else observe(kind, what, dtypes, amount);
}

void ascend_sim_observe_begin(void) {
  if (depth++ == 0) inside = 0;
}

void ascend_sim_observe_end(const char *what, const char *dtypes, int always) {
  if (--depth == 0 && (always || inside > 0)) ascend_sim_observe("launch", what, dtypes, 0);
}
