// SPDX-License-Identifier: Apache-2.0
//
// Data types and reductions of the simulated HCCL.
#ifndef ASCEND_SIM_HCCL_REDUCE_H_
#define ASCEND_SIM_HCCL_REDUCE_H_

#include <stdint.h>

#include "hccl_types.h"

namespace hccl_sim {

// Bytes of one element, 0 for a type that HCCL does not have.
uint64_t type_bytes(uint32_t type);
const char *type_name(uint32_t type);
const char *reduce_name(uint32_t op);
bool can_reduce(uint32_t type);

// out[i] = sources[0][i] op sources[1][i] op ... for `count` elements, taken in
// that order whatever the rank that computes it, so that every rank gets the same
// bits. float16 and bfloat16 accumulate in float32 and round once; integers wrap;
// a NaN operand of max or min gives NaN. `out` may not overlap a source.
void reduce(void *out, const void *const *sources, uint32_t n_sources, uint64_t count,
            uint32_t type, uint32_t op);

}  // namespace hccl_sim

#endif  // ASCEND_SIM_HCCL_REDUCE_H_
