// SPDX-License-Identifier: Apache-2.0
//
// The device operators that torch_npu's C++ runs by name, past the ATen dispatcher, so
// that the CPU kernels never see them. ProcessGroupHCCL needs Fill and PadV3 (its
// all-gather pads tensors to 32 bytes) and Cast (bool and uint8 reduce as int32).
// Operands: CANN's operator prototypes of the same names.
#include <string.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "ascend_sim.h"

extern "C" {
size_t aclGetTensorDescNumDims(const void *);
int aclGetTensorDescType(const void *);
int aclGetTensorDescDimV2(const void *, size_t, int64_t *);
void *aclGetDataBufferAddr(const void *);
size_t aclGetDataBufferSizeV2(const void *);
}

namespace {

enum Type {  // aclDataType
  kFloat = 0, kHalf = 1, kInt8 = 2, kInt32 = 3, kUint8 = 4, kInt16 = 6, kUint16 = 7,
  kUint32 = 8, kInt64 = 9, kUint64 = 10, kDouble = 11, kBool = 12, kBfloat = 27,
};

size_t type_bytes(int type) {
  switch (type) {
    case kInt8: case kUint8: case kBool: return 1;
    case kHalf: case kBfloat: case kInt16: case kUint16: return 2;
    case kFloat: case kInt32: case kUint32: return 4;
    case kInt64: case kUint64: case kDouble: return 8;
    default: return 0;
  }
}

struct Operand {
  int type;
  std::vector<int64_t> shape;
  char *data;
  std::vector<char> host;  // of an operand in host memory, which does not outlive the call

  size_t count() const {
    size_t n = 1;
    for (int64_t size : shape) n *= static_cast<size_t>(size);
    return n;
  }
  const char *bytes() const { return host.empty() ? data : host.data(); }
};

struct Launch {
  std::string name;
  std::vector<Operand> in;
  Operand out;
};

float half_value(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, rest = h & 0x7fffu;
  uint32_t bits;
  if (rest >= 0x7c00u) bits = sign | 0x7f800000u | (rest & 0x3ffu) << 13;
  else if (rest >= 0x400u) bits = sign | ((rest << 13) + 0x38000000u);
  else {
    float value = static_cast<float>(rest) * 0x1p-24f;
    return sign ? -value : value;
  }
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <typename T>
T load(const char *p, size_t i) {
  T value;
  memcpy(&value, p + i * sizeof(T), sizeof value);
  return value;
}

// Only what is exact in the wider type is needed: integers by int64, floats by double.
bool is_float(int type) { return type == kFloat || type == kHalf || type == kBfloat || type == kDouble; }

int64_t integer_at(const Operand &o, size_t i) {
  switch (o.type) {
    case kInt8: return load<int8_t>(o.bytes(), i);
    case kUint8: case kBool: return load<uint8_t>(o.bytes(), i);
    case kInt16: return load<int16_t>(o.bytes(), i);
    case kUint16: return load<uint16_t>(o.bytes(), i);
    case kInt32: return load<int32_t>(o.bytes(), i);
    case kUint32: return load<uint32_t>(o.bytes(), i);
    default: return load<int64_t>(o.bytes(), i);
  }
}

double float_at(const Operand &o, size_t i) {
  switch (o.type) {
    case kFloat: return load<float>(o.bytes(), i);
    case kDouble: return load<double>(o.bytes(), i);
    case kHalf: return half_value(load<uint16_t>(o.bytes(), i));
    case kBfloat: {
      uint32_t bits = uint32_t{load<uint16_t>(o.bytes(), i)} << 16;
      float value;
      memcpy(&value, &bits, sizeof value);
      return value;
    }
    default: return static_cast<double>(integer_at(o, i));
  }
}

template <typename T>
void store(char *p, size_t i, T value) { memcpy(p + i * sizeof(T), &value, sizeof value); }

// Casts to float16 and bfloat16 are not asked of this path.
bool cast_element(const Operand &in, const Operand &out, size_t i) {
  switch (out.type) {
    case kBool: store<uint8_t>(out.data, i, is_float(in.type) ? float_at(in, i) != 0 : integer_at(in, i) != 0); break;
    case kFloat: store(out.data, i, static_cast<float>(float_at(in, i))); break;
    case kDouble: store(out.data, i, float_at(in, i)); break;
    case kInt8: case kUint8: store(out.data, i, static_cast<uint8_t>(is_float(in.type) ? static_cast<int64_t>(float_at(in, i)) : integer_at(in, i))); break;
    case kInt16: case kUint16: store(out.data, i, static_cast<uint16_t>(is_float(in.type) ? static_cast<int64_t>(float_at(in, i)) : integer_at(in, i))); break;
    case kInt32: case kUint32: store(out.data, i, static_cast<uint32_t>(is_float(in.type) ? static_cast<int64_t>(float_at(in, i)) : integer_at(in, i))); break;
    case kInt64: case kUint64: store(out.data, i, is_float(in.type) ? static_cast<int64_t>(float_at(in, i)) : integer_at(in, i)); break;
    default: return false;
  }
  return true;
}

// Fill(dims, value) -> out
int fill(Launch &l) {
  const size_t size = type_bytes(l.out.type);
  for (size_t i = 0; i < l.out.count(); i++) memcpy(l.out.data + i * size, l.in[1].bytes(), size);
  return ACL_SUCCESS;
}

// Cast(x) -> out
int cast(Launch &l) {
  for (size_t i = 0; i < l.out.count(); i++)
    if (!cast_element(l.in[0], l.out, i))
      return ascend_sim_error(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "Cast from type %d to type %d", l.in[0].type, l.out.type);
  return ACL_SUCCESS;
}

// PadV3(x, paddings, value) -> out; paddings: before and after, dimension by dimension
int pad(Launch &l) {
  const size_t size = type_bytes(l.out.type), dims = l.out.shape.size();
  const Operand &x = l.in[0], &paddings = l.in[1];
  for (size_t i = 0; i < l.out.count(); i++) memcpy(l.out.data + i * size, l.in[2].bytes(), size);
  std::vector<size_t> index(dims, 0);
  for (size_t from = 0; from < x.count(); from++) {
    int64_t to = 0;
    for (size_t d = 0; d < dims; d++) to = to * l.out.shape[d] + integer_at(paddings, 2 * d) + static_cast<int64_t>(index[d]);
    memcpy(l.out.data + static_cast<size_t>(to) * size, x.bytes() + from * size, size);
    for (size_t d = dims; d-- > 0;) {
      if (++index[d] < static_cast<size_t>(x.shape[d])) break;
      index[d] = 0;
    }
  }
  return ACL_SUCCESS;
}

Operand operand(const void *description, const void *buffer) {
  Operand o;
  o.type = aclGetTensorDescType(description);
  for (size_t i = 0; i < aclGetTensorDescNumDims(description); i++) {
    int64_t size = 0;
    aclGetTensorDescDimV2(description, i, &size);
    o.shape.push_back(size);
  }
  o.data = static_cast<char *>(aclGetDataBufferAddr(buffer));
  const size_t bytes = aclGetDataBufferSizeV2(buffer);
  if (o.data && bytes && !ascend_sim_is_device_ptr(o.data)) o.host.assign(o.data, o.data + bytes);
  return o;
}

int run(void *argument) {
  Launch &l = *static_cast<Launch *>(argument);
  return l.name == "Fill" ? fill(l) : l.name == "Cast" ? cast(l) : pad(l);
}

}  // namespace

extern "C" ASCEND_SIM_API int aclopCompileAndExecute(
    const char *type, int n_inputs, const void *const *in_descriptions, const void *const *in_buffers, int n_outputs,
    const void *const *out_descriptions, void *const *out_buffers, const void * /*attributes*/, int /*engine*/,
    int /*compile_flag*/, const char * /*path*/, void *stream) {
  const std::string name = type ? type : "?";
  const int wanted = name == "Fill" ? 2 : name == "Cast" ? 1 : name == "PadV3" ? 3 : -1;
  if (wanted < 0) {
    const std::string message = "the device operator '" + name + "' (aclopCompileAndExecute)";
    return ascend_sim_unimplemented(message.c_str());
  }
  if (n_inputs != wanted || n_outputs != 1)
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "the device operator '%s' with %d inputs and %d outputs", type, n_inputs, n_outputs);
  std::unique_ptr<Launch> l(new Launch);
  l->name = name;
  for (int i = 0; i < n_inputs; i++) l->in.push_back(operand(in_descriptions[i], in_buffers[i]));
  l->out = operand(out_descriptions[0], out_buffers[0]);
  if (!type_bytes(l->out.type) || (name != "Cast" && l->in.back().type != l->out.type))
    return ascend_sim_error(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "the device operator '%s' on type %d", type, l->out.type);
  const size_t bytes = l->out.count() * type_bytes(l->out.type);
  if (bytes && !ascend_sim_device_range(l->out.data, bytes))
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "the output of '%s' leaves its device allocation", type);
  ascend_sim_capture_will_write(stream, l->out.data, bytes);
  return ascend_sim_capture_record(stream, run, l.release(), [](void *p) { delete static_cast<Launch *>(p); });
}
