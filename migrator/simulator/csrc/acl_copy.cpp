// SPDX-License-Identifier: Apache-2.0
//
// The ACL runtime: copies and fills.
#include "acl_defer.h"
#include "acl_process.h"
#include "acl_stream.h"

#include <stdint.h>
#include <string.h>

using namespace acl_sim;

namespace {

int check_copy(const char *function, void *dst, size_t dst_max, const void *src, size_t bytes, int kind) {
  static const char *const names[] = {"HOST_TO_HOST", "HOST_TO_DEVICE", "DEVICE_TO_HOST", "DEVICE_TO_DEVICE",
                                      "DEFAULT", "HOST_TO_BUF_TO_DEVICE", "INNER_DEVICE_TO_DEVICE",
                                      "INTER_DEVICE_TO_DEVICE"};
  if (kind < 0 || kind > 7) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%s of unknown kind %d", function, kind);
  if (!dst || !src || bytes > dst_max)
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%s of %zu bytes from %p to %p, which holds %zu", function,
                            bytes, src, dst, dst_max);
  int to = ascend_sim_ptr_device(dst), from = ascend_sim_ptr_device(src);
  bool to_device = kind == 1 || kind == 3 || kind >= 5, from_device = kind == 2 || kind == 3 || kind >= 6;
  if (kind != 4 && ((to >= 0) != to_device || (from >= 0) != from_device))
    return ascend_sim_error(ACL_ERROR_RT_INVALID_MEMORY_TYPE, "%s of kind %s from %s memory to %s memory", function,
                            names[kind], from >= 0 ? "device" : "host", to >= 0 ? "device" : "host");
  if (kind == 6 && to != from)
    return ascend_sim_error(ACL_ERROR_RT_INVALID_MEMORY_TYPE, "%s within a device from device %d to device %d",
                            function, from, to);
  if ((to >= 0 && !ascend_sim_device_range(dst, bytes)) || (from >= 0 && !ascend_sim_device_range(src, bytes)))
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%s of %zu bytes leaves its device allocation", function,
                            bytes);
  return ACL_SUCCESS;
}

struct Copy {
  void *dst;
  const void *src;  // null: a fill with `value`
  size_t bytes;
  int value;
};

int do_copy(void *argument) {
  Copy *c = static_cast<Copy *>(argument);
  if (c->src) memmove(c->dst, c->src, c->bytes);
  else memset(c->dst, c->value, c->bytes);
  return ACL_SUCCESS;
}

void drop_copy(void *argument) { delete static_cast<Copy *>(argument); }

}  // namespace

ACL_API int aclrtMemcpy(void *dst, size_t dst_max, const void *src, size_t bytes, int kind) {
  if (int code = check_copy("aclrtMemcpy", dst, dst_max, src, bytes, kind)) return code;
  if (int code = not_while_capturing("a synchronous copy (aclrtMemcpy)")) return code;
  Direct nothing_is_queued;
  memmove(dst, src, bytes);
  return ACL_SUCCESS;
}

ACL_API int aclrtMemcpyAsync(void *dst, size_t dst_max, const void *src, size_t bytes, int kind, void *stream) {
  if (int code = check_copy("aclrtMemcpyAsync", dst, dst_max, src, bytes, kind)) return code;
  Direct nothing_is_queued;
  ascend_sim_capture_will_write(stream, dst, bytes);
  return ascend_sim_capture_record(stream, do_copy, new Copy{dst, src, bytes, 0}, drop_copy);
}

namespace {
int check_set(const char *function, void *p, size_t max, size_t bytes) {
  if (bytes > max || !ascend_sim_device_range(p, bytes))
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%s of %zu bytes leaves its device allocation", function, bytes);
  return ACL_SUCCESS;
}
}  // namespace

ACL_API int aclrtMemset(void *p, size_t max, int32_t value, size_t bytes) {
  if (int code = check_set("aclrtMemset", p, max, bytes)) return code;
  if (int code = not_while_capturing("aclrtMemset")) return code;
  Direct nothing_is_queued;
  memset(p, value, bytes);
  return ACL_SUCCESS;
}

ACL_API int aclrtMemsetAsync(void *p, size_t max, int32_t value, size_t bytes, void *stream) {
  if (int code = check_set("aclrtMemsetAsync", p, max, bytes)) return code;
  Direct nothing_is_queued;
  ascend_sim_capture_will_write(stream, p, bytes);
  return ascend_sim_capture_record(stream, do_copy, new Copy{p, nullptr, bytes, value}, drop_copy);
}
