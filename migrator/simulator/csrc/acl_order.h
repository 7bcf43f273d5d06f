// SPDX-License-Identifier: Apache-2.0
//
// The order of work on a device, as far as a program has seen to it.
//
// Here work runs when it is issued; on a device it runs later. What a program may rely on
// is told by clocks: of each stream how much has been issued, how much of the other streams
// it has waited for, and how much the host knows to be done. On them rest the checks of
// host memory that a queued copy still reads or has yet to write, and of device memory
// that two streams use with nothing between.
#ifndef ASCEND_SIM_ACL_ORDER_H_
#define ASCEND_SIM_ACL_ORDER_H_

#include <stdint.h>

#include <map>

namespace acl_sim {

struct Stream;

using Order = std::map<Stream *, uint64_t>;  // work of each stream, by number

// With the state's lock held:

// What is before what is issued to the stream next.
Order order_of(Stream *s);
// The stream waits for work that an event stands for.
void order_wait(Stream *s, const Order &before);
// The host knows that this work is done: pending copies among it wait for order_settle.
void order_done(const Order &done);
void order_forget(Stream *s);
// The number of the work that is issued to the stream now.
uint64_t order_issue(Stream *s);

// Without it, for they may take Python's lock:

// Looks at the copies that this thread has found done. `named`: whether a report may ask
// Python where the program is, which must not be done from under locks of torch_npu.
void order_settle(bool named);
// As order_settle, and the error of a race that was found since the last call, or success.
int order_error();

}  // namespace acl_sim

#endif  // ASCEND_SIM_ACL_ORDER_H_
