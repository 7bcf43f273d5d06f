// SPDX-License-Identifier: Apache-2.0
//
// What the chip has of cores, and limits on their number.
#ifndef ASCEND_SIM_ACL_SETTINGS_H_
#define ASCEND_SIM_ACL_SETTINGS_H_

#include <stdint.h>

namespace acl_sim {

// Ascend910B1: 24 cube and 48 vector cores.
constexpr uint32_t kCubeCores = 24;
constexpr uint32_t kVectorCores = 48;

// Forgets the limits of a context or stream that is no more.
void reset_core_limit(void *of);

}  // namespace acl_sim

#endif  // ASCEND_SIM_ACL_SETTINGS_H_
