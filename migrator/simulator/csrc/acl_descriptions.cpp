// SPDX-License-Identifier: Apache-2.0
//
// The ACL runtime: descriptions of the operands of single operators (aclop.cpp runs a few).
#include "acl_process.h"

#include <stddef.h>
#include <stdint.h>

#include <algorithm>
#include <string>
#include <vector>

struct TensorDescription {
  int type;
  int format;
  std::vector<int64_t> shape;
};

ACL_API void *aclCreateTensorDesc(int type, int dims, const int64_t *shape, int format) {
  return new TensorDescription{type, format, std::vector<int64_t>(shape, shape + std::max(dims, 0))};
}
ACL_API void aclDestroyTensorDesc(const TensorDescription *d) { delete d; }
ACL_API int aclGetTensorDescType(const TensorDescription *d) { return d->type; }
ACL_API int aclGetTensorDescFormat(const TensorDescription *d) { return d->format; }
ACL_API size_t aclGetTensorDescNumDims(const TensorDescription *d) { return d->shape.size(); }
ACL_API int aclGetTensorDescDimV2(const TensorDescription *d, size_t index, int64_t *size) {
  if (index >= d->shape.size()) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "dimension %zu", index);
  *size = d->shape[index];
  return ACL_SUCCESS;
}
ACL_API void aclSetTensorDescName(TensorDescription *, const char *) {}
ACL_API int aclSetTensorFormat(TensorDescription *d, int format) {
  d->format = format;
  return ACL_SUCCESS;
}
ACL_API int aclSetTensorShape(TensorDescription *d, int dims, const int64_t *shape) {
  d->shape.assign(shape, shape + std::max(dims, 0));
  return ACL_SUCCESS;
}
ACL_API int aclSetTensorPlaceMent(TensorDescription *, int) { return ACL_SUCCESS; }

struct DataBuffer {
  void *data;
  size_t bytes;
};

ACL_API void *aclCreateDataBuffer(void *data, size_t bytes) { return new DataBuffer{data, bytes}; }
ACL_API void *aclGetDataBufferAddr(const DataBuffer *buffer) { return buffer->data; }
ACL_API size_t aclGetDataBufferSizeV2(const DataBuffer *buffer) { return buffer->bytes; }
ACL_API int aclDestroyDataBuffer(const DataBuffer *buffer) {
  delete buffer;
  return ACL_SUCCESS;
}
ACL_API void *aclopCreateAttr(void) { return new int(0); }
ACL_API void aclopDestroyAttr(const int *attribute) { delete attribute; }
ACL_API int aclopSetAttrBool(void *, const char *, uint8_t) { return ACL_SUCCESS; }
ACL_API int aclopSetAttrDataType(void *, const char *, int) { return ACL_SUCCESS; }
ACL_API int aclopSetAttrFloat(void *, const char *, float) { return ACL_SUCCESS; }
ACL_API int aclopSetAttrInt(void *, const char *, int64_t) { return ACL_SUCCESS; }
ACL_API int aclopSetAttrString(void *, const char *, const char *) { return ACL_SUCCESS; }
ACL_API int aclopSetAttrListBool(void *, const char *, int, const uint8_t *) { return ACL_SUCCESS; }
ACL_API int aclopSetAttrListFloat(void *, const char *, int, const float *) { return ACL_SUCCESS; }
ACL_API int aclopSetAttrListInt(void *, const char *, int, const int64_t *) { return ACL_SUCCESS; }
ACL_API int aclopSetAttrListListInt(void *, const char *, int, const int *, const int64_t *const *) {
  return ACL_SUCCESS;
}
ACL_API int aclopCompileAndExecuteV2(const char *type, ...) {
  std::string name = std::string("the device operator '") + (type ? type : "?") + "' (aclopCompileAndExecuteV2)";
  return ascend_sim_unimplemented(name.c_str());
}
