// SPDX-License-Identifier: Apache-2.0
//
// The ACL runtime: logging and profiling hooks, to which no one listens.
#include "acl_stream.h"

#include <stddef.h>
#include <stdint.h>

using namespace acl_sim;

ACL_API void aclAppLog(int, const char *, const char *, uint32_t, const char *, ...) {}
ACL_API int aclmdlInitDump(void) { return ACL_SUCCESS; }
ACL_API int aclmdlFinalizeDump(void) { return ACL_SUCCESS; }
ACL_API int MsprofRegisterCallback(uint32_t, void *) { return 0; }
ACL_API uint64_t MsprofGetHashId(const char *text, size_t length) {
  uint64_t hash = 1469598103934665603u;
  for (size_t i = 0; i < length; ++i) hash = (hash ^ static_cast<unsigned char>(text[i])) * 1099511628211u;
  return hash;
}
ACL_API uint64_t MsprofSysCycleTime(void) { return static_cast<uint64_t>(now()); }
ACL_API int MsprofReportApi(uint32_t, const void *) { return 0; }
ACL_API int MsprofReportCompactInfo(uint32_t, const void *, uint32_t) { return 0; }
ACL_API int MsprofReportAdditionalInfo(uint32_t, const void *, uint32_t) { return 0; }
