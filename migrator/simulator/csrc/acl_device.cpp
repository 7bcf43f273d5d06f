// SPDX-License-Identifier: Apache-2.0
//
// The ACL runtime: devices and contexts.
#include "acl_process.h"
#include "acl_settings.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <atomic>

namespace acl_sim {

int contexts[kMaxDevices];
std::atomic<int> default_device{-1};

namespace {

thread_local int current_device = -1;
std::atomic<bool> device_used[kMaxDevices];
std::atomic<bool> context_taken[kMaxDevices];

// What a process takes of a device that it opens, by vllm-ascend #7107.
constexpr size_t kContextBytes = size_t{106} << 20;

int open_context(int device) {
  if (device_used[device].exchange(true) || context_taken[device]) return ACL_SUCCESS;
  int taken = ascend_sim_take_overhead(device, kContextBytes, "a context of the device");
  context_taken[device] = taken > 0;
  if (taken >= 0) return ACL_SUCCESS;
  device_used[device] = false;
  return last_error;
}

// The account forgets a parent's share in a forked child.
const int forked = pthread_atfork(nullptr, nullptr, [] {
  for (std::atomic<bool> &taken : context_taken) taken = false;
});

}  // namespace

int need_device(int *device) {
  if (current_device < 0 && default_device >= 0 && valid_device(default_device)) {
    current_device = default_device;
    if (int code = open_context(current_device)) return code;
  }
  if (current_device < 0) return ascend_sim_error(ACL_ERROR_RT_CONTEXT_NULL, "no device is set on this thread");
  *device = current_device;
  return ACL_SUCCESS;
}

}  // namespace acl_sim

using namespace acl_sim;

int ascend_sim_device_count(void) { return config().count; }

int ascend_sim_current_device(void) { return current_device; }

int ascend_sim_physical_device(int device) { return valid_device(device) ? config().physical[device] : -1; }

ACL_API int aclrtGetDeviceCount(uint32_t *count) {
  if (int code = need_configuration()) return code;
  *count = static_cast<uint32_t>(config().count);
  return ACL_SUCCESS;
}

ACL_API int aclrtSetDevice(int32_t device) {
  if (!valid_device(device))
    return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist: there are %d", device,
                            config().count);
  if (int code = open_context(device)) return code;
  current_device = device;
  return ACL_SUCCESS;
}

ACL_API int aclrtGetDevice(int32_t *device) { return need_device(device); }

ACL_API int aclrtResetDevice(int32_t device) {
  if (!valid_device(device))
    return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist", device);
  device_used[device] = false;
  if (context_taken[device].exchange(false)) ascend_sim_give_overhead(device, kContextBytes);
  return ACL_SUCCESS;
}

ACL_API int aclrtGetCurrentContext(void **context) {
  int device = 0;
  if (int code = need_device(&device)) return code;
  *context = &contexts[device];
  return ACL_SUCCESS;
}

ACL_API int aclrtSetCurrentContext(void *context) {
  int *c = static_cast<int *>(context);
  if (c < contexts || c >= contexts + config().count)
    return ascend_sim_error(ACL_ERROR_RT_INVALID_HANDLE, "%p is not a context", context);
  return aclrtSetDevice(static_cast<int>(c - contexts));
}

ACL_API int aclrtGetPrimaryCtxState(int32_t device, uint32_t *flags, int32_t *active) {
  if (!valid_device(device))
    return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist", device);
  if (flags) *flags = 0;
  *active = device_used[device] ? 1 : 0;
  return ACL_SUCCESS;
}

ACL_API int aclrtDeviceCanAccessPeer(int32_t *can, int32_t device, int32_t peer) {
  if (!valid_device(device) || !valid_device(peer))
    return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "peer access from device %d to %d", device, peer);
  *can = device != peer;
  return ACL_SUCCESS;
}

ACL_API int aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t) {
  if (!valid_device(peer)) return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist", peer);
  return ACL_SUCCESS;
}

ACL_API int aclrtGetLogicDevIdByUserDevId(int32_t user, int32_t *logical) {
  if (!valid_device(user)) return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist", user);
  *logical = user;
  return ACL_SUCCESS;
}

namespace {
constexpr int64_t kL2Bytes = int64_t{192} << 20;
}  // namespace

ACL_API int aclrtGetDeviceInfo(uint32_t device, int attribute, int64_t *value) {
  if (!valid_device(static_cast<int>(device)))
    return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %u does not exist", device);
  switch (attribute) {
    case 1: *value = 6; break;                 // AI CPUs
    case 101: case 102: *value = kCubeCores; break;
    case 201: *value = kVectorCores; break;
    case 301: *value = static_cast<int64_t>(config().memory); break;
    case 302: *value = kL2Bytes; break;
    case 402: *value = config().physical[device]; break;
    case 501: *value = 0; break;               // not a slice of a device
    default:
      return ascend_sim_error(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "device attribute %d is not known", attribute);
  }
  return ACL_SUCCESS;
}

ACL_API int aclGetDeviceCapability(uint32_t device, int what, int64_t *value) {
  static const int attributes[] = {101, 201, 302};
  if (what < 0 || what > 2) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclGetDeviceCapability(%d)", what);
  return aclrtGetDeviceInfo(device, attributes[what], value);
}

ACL_API int aclrtDeviceGetUuid(int32_t device, char *uuid) {
  if (!valid_device(device))
    return ascend_sim_error(ACL_ERROR_RT_INVALID_DEVICEID, "device %d does not exist", device);
  snprintf(uuid, 16, "ascend-sim-%02d", config().physical[device]);
  return ACL_SUCCESS;
}

ACL_API int aclrtDeviceGetBareTgid(int32_t *pid) {
  *pid = getpid();
  return ACL_SUCCESS;
}
