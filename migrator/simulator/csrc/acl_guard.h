// SPDX-License-Identifier: Apache-2.0
//
// Host memory that nobody may use yet: the target of a copy that the host has not waited for.
//
// Its pages are taken away from the process, so that a use of it shows where it happens. Pages
// are coarser than what is guarded: what else lies on them is given back when it is used, and
// no more of that page is guarded. The kernel does not ask us: a system call that is handed a
// guarded page fails with EFAULT.
#ifndef ASCEND_SIM_ACL_GUARD_H_
#define ASCEND_SIM_ACL_GUARD_H_

#include <stddef.h>

namespace acl_sim {

// `used(p, write)` is called by the thread that uses `p`, which is guarded, once; it gives
// whether Python may be asked where that is.
// Null leaves that as it is, and sees to it that faults come here.
void guard_by(void (*used)(const char *p, bool write, bool python));
// All of [p, p + bytes) that lies on pages of pinned memory.
void guard_pages(char *p, size_t bytes);
void unguard_pages(char *p, size_t bytes);

}  // namespace acl_sim

#endif  // ASCEND_SIM_ACL_GUARD_H_
