// SPDX-License-Identifier: Apache-2.0
#include "hccl_reduce.h"

#include <string.h>

#include <algorithm>
#include <type_traits>

namespace hccl_sim {

namespace {

struct TypeInfo {
  uint32_t type;
  uint32_t bytes;
  bool reducible;
  const char *name;
};

constexpr TypeInfo kTypes[] = {
    {HCCL_DATA_TYPE_INT8, 1, true, "int8"},
    {HCCL_DATA_TYPE_INT16, 2, true, "int16"},
    {HCCL_DATA_TYPE_INT32, 4, true, "int32"},
    {HCCL_DATA_TYPE_FP16, 2, true, "float16"},
    {HCCL_DATA_TYPE_FP32, 4, true, "float32"},
    {HCCL_DATA_TYPE_INT64, 8, true, "int64"},
    {HCCL_DATA_TYPE_UINT64, 8, true, "uint64"},
    {HCCL_DATA_TYPE_UINT8, 1, true, "uint8"},
    {HCCL_DATA_TYPE_UINT16, 2, true, "uint16"},
    {HCCL_DATA_TYPE_UINT32, 4, true, "uint32"},
    {HCCL_DATA_TYPE_FP64, 8, true, "float64"},
    {HCCL_DATA_TYPE_BFP16, 2, true, "bfloat16"},
    {HCCL_DATA_TYPE_INT128, 16, false, "int128"},
    {HCCL_DATA_TYPE_HIF8, 1, false, "hif8"},
    {HCCL_DATA_TYPE_FP8E4M3, 1, false, "float8_e4m3"},
    {HCCL_DATA_TYPE_FP8E5M2, 1, false, "float8_e5m2"},
    {HCCL_DATA_TYPE_FP8E8M0, 1, false, "float8_e8m0"},
};

const TypeInfo *find_type(uint32_t type) {
  for (const TypeInfo &info : kTypes)
    if (info.type == type) return &info;
  return nullptr;
}

float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

float half_to_float(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
  const uint32_t rest = half & 0x7fffu;
  if (rest >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  // Subnormals are multiples of 2^-24 and normal in float32: no operand here is one
  // that a flush-to-zero mode of the thread would touch.
  const uint32_t magnitude =
      rest < 0x400u ? float_to_bits((float)(int)rest * 0x1p-24f) : (rest << 13) + 0x38000000u;
  return bits_to_float(sign | magnitude);
}

uint16_t float_to_half(float value) {
  const uint32_t bits = float_to_bits(value);
  const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x47800000u) return sign | 0x7c00u;  // 65536 and above
  if (magnitude < 0x38800000u) {
    // Below the smallest normal: adding 0.5 puts the ten subnormal bits at the end
    // of the significand, rounded to nearest even by the addition itself.
    return sign | (uint16_t)(float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u);
  }
  const uint32_t odd = magnitude >> 13 & 1u;
  // The carry of rounding runs into the exponent, up to infinity.
  return sign | (uint16_t)((magnitude - 0x38000000u + 0xfffu + odd) >> 13);
}

float bfloat_to_float(uint16_t value) { return bits_to_float((uint32_t)value << 16); }

uint16_t float_to_bfloat(float value) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// uint8 and uint16 would promote to int, whose product can overflow.
template <typename T>
using Wrapping = std::conditional_t<(sizeof(T) < 4), uint32_t, std::make_unsigned_t<T>>;

struct Sum {
  template <typename T>
  static T apply(T a, T b) {
    if constexpr (std::is_integral_v<T>)
      return (T)((Wrapping<T>)a + (Wrapping<T>)b);
    else
      return a + b;
  }
};

struct Prod {
  template <typename T>
  static T apply(T a, T b) {
    if constexpr (std::is_integral_v<T>)
      return (T)((Wrapping<T>)a * (Wrapping<T>)b);
    else
      return a * b;
  }
};

struct Max {
  template <typename T>
  static T apply(T a, T b) {
    return (a > b || a != a) ? a : b;
  }
};

struct Min {
  template <typename T>
  static T apply(T a, T b) {
    return (a < b || a != a) ? a : b;
  }
};

constexpr uint64_t kBlock = 1024;  // elements of a block: accumulators stay in cache

template <typename T, typename Op>
void reduce_plain(void *out, const void *const *sources, uint32_t n_sources, uint64_t count) {
  T *result = static_cast<T *>(out);
  for (uint64_t begin = 0; begin < count; begin += kBlock) {
    const uint64_t n = std::min(kBlock, count - begin);
    memcpy(result + begin, static_cast<const T *>(sources[0]) + begin, n * sizeof(T));
    for (uint32_t s = 1; s < n_sources; s++) {
      const T *source = static_cast<const T *>(sources[s]) + begin;
      for (uint64_t i = 0; i < n; i++)
        result[begin + i] = Op::template apply<T>(result[begin + i], source[i]);
    }
  }
}

template <float (*widen)(uint16_t), uint16_t (*narrow)(float), typename Op>
void reduce_narrow(void *out, const void *const *sources, uint32_t n_sources, uint64_t count) {
  uint16_t *result = static_cast<uint16_t *>(out);
  float sums[kBlock];
  for (uint64_t begin = 0; begin < count; begin += kBlock) {
    const uint64_t n = std::min(kBlock, count - begin);
    const uint16_t *first = static_cast<const uint16_t *>(sources[0]) + begin;
    for (uint64_t i = 0; i < n; i++) sums[i] = widen(first[i]);
    for (uint32_t s = 1; s < n_sources; s++) {
      const uint16_t *source = static_cast<const uint16_t *>(sources[s]) + begin;
      for (uint64_t i = 0; i < n; i++)
        sums[i] = Op::template apply<float>(sums[i], widen(source[i]));
    }
    for (uint64_t i = 0; i < n; i++) result[begin + i] = narrow(sums[i]);
  }
}

template <typename Op>
void reduce_by(void *out, const void *const *sources, uint32_t n, uint64_t count, uint32_t type) {
  switch (type) {
    case HCCL_DATA_TYPE_INT8: return reduce_plain<int8_t, Op>(out, sources, n, count);
    case HCCL_DATA_TYPE_INT16: return reduce_plain<int16_t, Op>(out, sources, n, count);
    case HCCL_DATA_TYPE_INT32: return reduce_plain<int32_t, Op>(out, sources, n, count);
    case HCCL_DATA_TYPE_INT64: return reduce_plain<int64_t, Op>(out, sources, n, count);
    case HCCL_DATA_TYPE_UINT8: return reduce_plain<uint8_t, Op>(out, sources, n, count);
    case HCCL_DATA_TYPE_UINT16: return reduce_plain<uint16_t, Op>(out, sources, n, count);
    case HCCL_DATA_TYPE_UINT32: return reduce_plain<uint32_t, Op>(out, sources, n, count);
    case HCCL_DATA_TYPE_UINT64: return reduce_plain<uint64_t, Op>(out, sources, n, count);
    case HCCL_DATA_TYPE_FP32: return reduce_plain<float, Op>(out, sources, n, count);
    case HCCL_DATA_TYPE_FP64: return reduce_plain<double, Op>(out, sources, n, count);
    case HCCL_DATA_TYPE_FP16:
      return reduce_narrow<half_to_float, float_to_half, Op>(out, sources, n, count);
    case HCCL_DATA_TYPE_BFP16:
      return reduce_narrow<bfloat_to_float, float_to_bfloat, Op>(out, sources, n, count);
    default: return;  // can_reduce() was asked before
  }
}

}  // namespace

uint64_t type_bytes(uint32_t type) {
  const TypeInfo *info = find_type(type);
  return info ? info->bytes : 0;
}

const char *type_name(uint32_t type) {
  const TypeInfo *info = find_type(type);
  return info ? info->name : "unknown type";
}

bool can_reduce(uint32_t type) {
  const TypeInfo *info = find_type(type);
  return info && info->reducible;
}

const char *reduce_name(uint32_t op) {
  static const char *const names[] = {"sum", "prod", "max", "min"};
  return op < 4 ? names[op] : "unknown reduction";
}

void reduce(void *out, const void *const *sources, uint32_t n_sources, uint64_t count,
            uint32_t type, uint32_t op) {
  switch (op) {
    case HCCL_REDUCE_SUM: return reduce_by<Sum>(out, sources, n_sources, count, type);
    case HCCL_REDUCE_PROD: return reduce_by<Prod>(out, sources, n_sources, count, type);
    case HCCL_REDUCE_MAX: return reduce_by<Max>(out, sources, n_sources, count, type);
    case HCCL_REDUCE_MIN: return reduce_by<Min>(out, sources, n_sources, count, type);
    default: return;
  }
}

}  // namespace hccl_sim
