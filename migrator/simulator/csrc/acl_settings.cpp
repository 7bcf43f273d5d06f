// SPDX-License-Identifier: Apache-2.0
//
// The ACL runtime: settings that are kept and given back and have no effect here.
#include "acl_process.h"
#include "acl_settings.h"

#include <stdint.h>
#include <stdio.h>

#include <map>
#include <string>
#include <utility>

using namespace acl_sim;

// Limits on how many cores the work may use: kept and given back, no effect.
namespace {
std::map<std::pair<void *, int>, uint32_t> core_limits;

int get_core_limit(void *of, int type, uint32_t *value) {
  Guard guard(state_mutex);
  auto it = core_limits.find({of, type});
  *value = it != core_limits.end() ? it->second : type == 0 ? kCubeCores : kVectorCores;
  return ACL_SUCCESS;
}

int set_core_limit(void *of, int type, uint32_t value) {
  Guard guard(state_mutex);
  core_limits[{of, type}] = value;
  return ACL_SUCCESS;
}
}  // namespace

void acl_sim::reset_core_limit(void *of) {
  Guard guard(state_mutex);
  core_limits.erase({of, 0});
  core_limits.erase({of, 1});
}

ACL_API int aclrtGetDeviceResLimit(int32_t device, int type, uint32_t *value) {
  if (!valid_device(device)) return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist", device);
  return get_core_limit(&contexts[device], type, value);
}
ACL_API int aclrtSetDeviceResLimit(int32_t device, int type, uint32_t value) {
  if (!valid_device(device)) return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist", device);
  return set_core_limit(&contexts[device], type, value);
}
ACL_API int aclrtResetDeviceResLimit(int32_t device) {
  if (!valid_device(device)) return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist", device);
  reset_core_limit(&contexts[device]);
  return ACL_SUCCESS;
}
ACL_API int aclrtGetStreamResLimit(void *stream, int type, uint32_t *value) { return get_core_limit(stream, type, value); }
ACL_API int aclrtSetStreamResLimit(void *stream, int type, uint32_t value) { return set_core_limit(stream, type, value); }
ACL_API int aclrtResetStreamResLimit(void *stream) {
  reset_core_limit(stream);
  return ACL_SUCCESS;
}
ACL_API int aclrtUseStreamResInCurrentThread(void *) { return ACL_SUCCESS; }
ACL_API int aclrtUnuseStreamResInCurrentThread(void *) { return ACL_SUCCESS; }
ACL_API int aclrtGetResInCurrentThread(int type, uint32_t *value) { return get_core_limit(nullptr, type, value); }

// Settings that change speed, debugging or numerics of the device only: kept where
// there is a getter, otherwise accepted and without effect here.
namespace {
int64_t parameters[16];
std::map<int, std::string> compile_options;
std::map<void *, uint32_t> overflow_switch;
}  // namespace

ACL_API int aclrtSetSysParamOpt(int option, int64_t value) {
  parameters[option & 15] = value;
  return ACL_SUCCESS;
}
ACL_API int aclrtGetSysParamOpt(int option, int64_t *value) {
  *value = parameters[option & 15];
  return ACL_SUCCESS;
}
ACL_API int aclrtCtxSetSysParamOpt(int option, int64_t value) { return aclrtSetSysParamOpt(option, value); }
ACL_API int aclrtCtxGetSysParamOpt(int option, int64_t *value) { return aclrtGetSysParamOpt(option, value); }
ACL_API int aclSetCompileopt(int option, const char *value) {
  Guard guard(state_mutex);
  compile_options[option] = value ? value : "";
  return ACL_SUCCESS;
}
ACL_API size_t aclGetCompileoptSize(int option) {
  Guard guard(state_mutex);
  return compile_options[option].size() + 1;
}
ACL_API int aclGetCompileopt(int option, char *value, size_t length) {
  Guard guard(state_mutex);
  snprintf(value, length, "%s", compile_options[option].c_str());
  return ACL_SUCCESS;
}
ACL_API int aclrtSetDeviceSatMode(int) { return ACL_SUCCESS; }
ACL_API int aclrtSetOpWaitTimeout(uint32_t) { return ACL_SUCCESS; }
ACL_API int aclrtSetOpExecuteTimeOut(uint32_t) { return ACL_SUCCESS; }
ACL_API int aclrtSetOpExecuteTimeOutV2(uint64_t timeout, uint64_t *actual) {
  if (actual) *actual = timeout;
  return ACL_SUCCESS;
}
ACL_API int aclrtSetStreamFailureMode(void *, uint64_t) { return ACL_SUCCESS; }
ACL_API int aclrtSetStreamAttribute(void *, int, void *) { return ACL_SUCCESS; }
ACL_API int aclrtSetStreamOverflowSwitch(void *stream, uint32_t flag) {
  Guard guard(state_mutex);
  overflow_switch[stream] = flag;
  return ACL_SUCCESS;
}
ACL_API int aclrtGetStreamOverflowSwitch(void *stream, uint32_t *flag) {
  Guard guard(state_mutex);
  *flag = overflow_switch[stream];
  return ACL_SUCCESS;
}
