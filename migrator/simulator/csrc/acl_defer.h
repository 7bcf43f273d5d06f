// SPDX-License-Identifier: Apache-2.0
//
// Work that runs late, in another order than it was issued in (ASCEND_SIM_ORDER=SEED).
//
// An operator runs when it is issued, for its shapes and so that the next ones find sane
// values; but that is a guess, and each page of device memory is kept as it was before the
// guess wrote to it. When the host waits, the guess is taken back, and what the host waits for
// runs for good: of each stream in its order, after what the stream waited for by events, and
// beside that in an order drawn from the seed. Of what else is queued some runs as well, by the
// seed; the rest is guessed again. A program that orders its work sees no difference.
#ifndef ASCEND_SIM_ACL_DEFER_H_
#define ASCEND_SIM_ACL_DEFER_H_

#include "acl_order.h"

namespace acl_sim {

// Nothing is queued and all memory is as the device has it, until the end of the scope: for
// work that cannot be taken back. Not within an operator that is being guessed.
class Direct {
 public:
  Direct();
  ~Direct();
  Direct(const Direct &) = delete;
  Direct &operator=(const Direct &) = delete;
};

// The host waits for this work, or for all: runs what is before it. An error is that of the
// work.
int defer_wait(const Order *done);
// The same; false, and nothing is waited for, where another thread is at work.
bool defer_try(const Order &done);
// A write to device memory that is not allowed for now: whether it is by then.
bool defer_fault(const void *p);

}  // namespace acl_sim

#endif  // ASCEND_SIM_ACL_DEFER_H_
