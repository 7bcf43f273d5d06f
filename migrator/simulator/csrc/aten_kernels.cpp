// SPDX-License-Identifier: Apache-2.0
//
// CPU kernels behind torch_npu's device: one boxed kernel stands in for every ATen
// operator that torch_npu would hand to the device. It checks what the device would
// check, gives the CPU kernel zero-copy views of the operands' memory, and brings the
// results back to the device. Allocation, views and resizing stay torch_npu's own.
//
// While a stream captures a graph, the operator is recorded with its operands' addresses
// and runs again on every replay (see "capture" below).
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorUtils.h>
#include <ATen/TensorOperators.h>
#include <ATen/Utils.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_ops.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/empty_strided_ops.h>
#include <c10/core/TensorOptions.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/library.h>

#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "ascend_sim.h"

// What torch_npu's libtorch_npu.so exports about its current stream and its generators;
// declared here so that the headers of one release are not baked in.
namespace at_npu::detail {
const at::Generator &getDefaultNPUGenerator(c10::DeviceIndex device);
}
namespace c10_npu {
class NPUStream {
 public:
  ~NPUStream() {}
  void *stream(bool empty_queue) const;

 private:
  explicit NPUStream(c10::Stream stream) : stream_(stream) {}
  c10::Stream stream_;
};
NPUStream getCurrentNPUStream(c10::DeviceIndex device);
}  // namespace c10_npu

extern "C" const char *aclGetRecentErrMsg(void);

namespace {

using at::Tensor;
using c10::Device;
using c10::DeviceType;
using c10::IValue;
using Stack = torch::jit::Stack;

constexpr DeviceType kNpu = DeviceType::PrivateUse1;

bool on_npu(const Tensor &t) { return t.defined() && t.device().type() == kNpu; }

void check(int code) { TORCH_CHECK(code == ACL_SUCCESS, aclGetRecentErrMsg(), " (error ", code, ")"); }

// ---- views of device memory ----------------------------------------------------------

// A CPU tensor over the same bytes. Unless `own`, it keeps nothing alive and must not outlive
// `t` unless it is meant to (a graph holds addresses, as on the device). It may be resized:
// growing moves it to memory of its own, which the caller brings back.
Tensor cpu_view(const Tensor &t, bool own = false) {
  if (!on_npu(t)) return t;
  TORCH_CHECK(t.layout() == c10::kStrided, "ascend simulator: tensors of layout ", t.layout(), " are not simulated");
  const c10::Storage &storage = t.storage();
  c10::DataPtr bytes(storage.mutable_data(), Device(c10::kCPU));
  if (own) {
    bytes = c10::DataPtr(storage.mutable_data(), new c10::Storage(storage),
                         [](void *held) { delete static_cast<c10::Storage *>(held); }, Device(c10::kCPU));
  }
  auto impl = c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(),
                                                    static_cast<int64_t>(storage.nbytes()), std::move(bytes),
                                                    c10::GetAllocator(c10::kCPU), /*resizable=*/!own);
  auto view = c10::make_intrusive<c10::TensorImpl>(c10::Storage(std::move(impl)), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                                   t.dtype());
  view->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  if (t.is_conj()) view->_set_conj(true);
  if (t.is_neg()) view->_set_neg(true);
  return Tensor(std::move(view));
}

Tensor new_on(const Tensor &like, Device device) {
  return at::empty_strided(like.sizes(), like.strides(), like.options().device(device).pinned_memory(false));
}

size_t extent_bytes(const Tensor &t) {
  if (t.numel() == 0) return 0;
  return at::detail::computeStorageNbytes(t.sizes(), t.strides(), t.dtype().itemsize());
}

Device current_npu() {
  return c10::impl::VirtualGuardImpl(kNpu).getDevice();
}

// ---- the stream that an operator runs on -------------------------------------------------

void *current_stream(Device device) { return c10_npu::getCurrentNPUStream(device.index()).stream(false); }

// The stream whose order with others is watched; null on a device that is not the current one,
// whose streams torch_npu may not have made.
void *watched_stream(Device device) { return device == current_npu() ? current_stream(device) : nullptr; }

void host_waited(void *stream, Device device) {
  check(stream ? ascend_sim_stream_done(stream) : ascend_sim_device_done(device.index()));
}

// Null where no stream of the process is special: the usual case, which costs one load.
void *special_stream(Device device) { return ascend_sim_streams_busy() ? current_stream(device) : nullptr; }

// ---- random numbers -----------------------------------------------------------------------

// The state of a device generator is torch_npu's own: a seed and an offset. A call draws
// from a CPU generator seeded by the two and moves the offset on, so that seeding, get_state
// and set_state work, and the CPU's generator is left alone.
constexpr uint64_t kOffsetStep = 4;  // torch_npu wants multiples of 4

uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t draw_seed(at::Generator generator) {
  std::lock_guard<std::mutex> lock(generator.mutex());
  uint64_t offset = generator.get_offset();
  generator.set_offset(offset + kOffsetStep);
  return mix(generator.current_seed() ^ mix(offset));
}

at::Generator device_generator(const IValue &given, Device device) {
  if (given.isNone()) return at_npu::detail::getDefaultNPUGenerator(device.index());
  at::Generator generator = given.toGenerator();
  TORCH_CHECK(generator.device().type() == kNpu, "Expected a 'npu' device type for generator but found '",
              generator.device().type(), "'");
  TORCH_CHECK(!generator.device().has_index() || generator.device() == device, "Expected a generator of ", device,
              " but found one of ", generator.device());
  return generator;
}

// Operators that draw and take no generator use the CPU's default one: lend it a seed.
class LentSeed {
 public:
  explicit LentSeed(uint64_t seed) : lock_(mutex()), generator_(at::detail::getDefaultCPUGenerator()) {
    state_ = generator_.get_state();
    generator_.set_current_seed(seed);
  }
  ~LentSeed() { generator_.set_state(state_); }

 private:
  static std::mutex &mutex() {
    static std::mutex m;
    return m;
  }
  std::lock_guard<std::mutex> lock_;
  at::Generator generator_;
  Tensor state_;
};

// ---- operators, looked at once ---------------------------------------------------------------

struct Operator {
  c10::OperatorHandle handle;
  int generator = -1;       // index of that argument
  int device = -1;
  int pin_memory = -1;
  bool draws = false;       // uses random numbers
  bool reads_host = false;  // its result is a value on the host
  bool data_shape = false;  // its output shape depends on the data
  bool indexes = false;     // its `indices` may be on the host, as in x[host_index]
  std::vector<char> written, host_allowed;  // by argument
};

bool has_tag(const c10::OperatorHandle &op, at::Tag tag) {
  for (at::Tag t : op.getTags())
    if (t == tag) return true;
  return false;
}

const Operator &describe(const c10::OperatorHandle &op) {
  static std::mutex mutex;
  static std::unordered_map<const void *, std::unique_ptr<Operator>> known;
  const c10::FunctionSchema &schema = op.schema();
  std::lock_guard<std::mutex> lock(mutex);
  auto &entry = known[&schema];
  if (entry) return *entry;
  entry.reset(new Operator{op});
  entry->draws = has_tag(op, at::Tag::nondeterministic_seeded);
  entry->reads_host = has_tag(op, at::Tag::data_dependent_output) || schema.name() == "aten::_local_scalar_dense";
  entry->data_shape = has_tag(op, at::Tag::dynamic_output_shape);
  const std::string &name = schema.name();
  for (size_t i = 0; i < schema.arguments().size(); ++i) {
    const c10::Argument &a = schema.arguments()[i];
    if (a.name() == "generator") entry->generator = static_cast<int>(i);
    if (a.name() == "device") entry->device = static_cast<int>(i);
    if (a.name() == "pin_memory") entry->pin_memory = static_cast<int>(i);
    entry->written.push_back(a.alias_info() && a.alias_info()->isWrite());
    // Host tensors that the real operators take beside device tensors.
    bool host = a.name() == "indices" && name.find("index") != std::string::npos;
    host |= a.name() == "lengths" || a.name() == "batch_sizes" || a.name() == "tensor_indices_or_sections";
    host |= a.name() == "src" && name == "aten::_foreach_copy_";
    entry->host_allowed.push_back(host);
    entry->indexes |= a.name() == "indices";
  }
  return *entry;
}

// ---- operands ------------------------------------------------------------------------------

struct Operand {
  Tensor device;  // as the program gave it
  Tensor view;    // as the CPU kernel sees it
  bool written;
};

class Operands {
 public:
  Operands(const Operator &op, Stack &stack, size_t base) : op_(op) {
    for (size_t i = 0; i < op.written.size(); ++i) look(stack[base + i], i);
    if (op.device >= 0 && !device_) {
      const IValue &v = stack[base + op.device];
      if (v.isDevice() && v.toDevice().type() == kNpu) device_ = v.toDevice();
    }
    if (!device_) device_ = current_npu();
    if (!device_->has_index()) device_ = current_npu();
    if (op.pin_memory >= 0) {
      const IValue &v = stack[base + op.pin_memory];
      TORCH_CHECK(!v.isBool() || !v.toBool(), "Only dense CPU tensors can be pinned");
    }
    for (size_t i = 0; i < op.written.size(); ++i) stack[base + i] = convert(stack[base + i], i);
  }

  Device device() const { return *device_; }
  const std::vector<Operand> &list() const { return list_; }

  // The operator's arguments again, for a graph: views of the operands as they are now and
  // copies of host tensors, whose values the device would have taken at capture.
  static IValue frozen(const IValue &v) {
    auto one = [](const Tensor &t) { return on_npu(t) ? cpu_view(t) : t.defined() ? t.clone() : t; };
    if (v.isTensor()) return one(v.toTensor());
    if (v.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor &t : v.toTensorVector()) list.push_back(one(t));
      return list;
    }
    if (v.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (std::optional<Tensor> t : v.toOptionalTensorList().vec())
        list.push_back(t ? std::optional<Tensor>(one(*t)) : std::nullopt);
      return list;
    }
    if (v.isDevice() && v.toDevice().type() == kNpu) return Device(c10::kCPU);
    return v;
  }

 private:
  template <class F>
  static void each(const IValue &v, F f) {
    if (v.isTensor()) {
      f(v.toTensor());
    } else if (v.isTensorList()) {
      for (const Tensor &t : v.toTensorVector()) f(t);
    } else if (v.isOptionalTensorList()) {
      for (std::optional<Tensor> t : v.toOptionalTensorList().vec())
        if (t) f(*t);
    }
  }

  [[noreturn]] void refuse(const std::string &a, const std::string &b, size_t argument) const {
    const auto &schema = op_.handle.schema();
    TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, ", a, " and ", b,
                "! (when checking argument for argument ", schema.arguments()[argument].name(), " in method ",
                schema.operator_name(), ")");
  }

  void look(const IValue &v, size_t argument) {
    each(v, [&](const Tensor &t) {
      if (!t.defined()) return;
      if (on_npu(t)) {
        if (device_ && *device_ != t.device()) refuse(device_->str(), t.device().str(), argument);
        device_ = t.device();
        if (host_) refuse(device_->str(), "cpu", host_argument_);
        return;
      }
      bool scalar = t.device().type() == c10::kCPU && t.dim() == 0 && !op_.written[argument];
      if (scalar || (t.device().type() == c10::kCPU && op_.host_allowed[argument])) return;
      if (device_) refuse(device_->str(), t.device().str(), argument);
      host_ = true;
      host_argument_ = argument;
    });
  }

  Tensor view_of(const Tensor &t, bool written) {
    if (!on_npu(t)) return t;
    // The same tensor given twice must be the same one for the kernel, too.
    for (Operand &o : list_) {
      if (o.device.unsafeGetTensorImpl() == t.unsafeGetTensorImpl()) {
        o.written |= written;
        return o.view;
      }
    }
    Tensor view = cpu_view(t);
    list_.push_back({t, view, written});
    return view;
  }

  IValue convert(const IValue &v, size_t argument) {
    bool written = op_.written[argument];
    if (v.isTensor()) return view_of(v.toTensor(), written);
    if (v.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor &t : v.toTensorVector()) list.push_back(view_of(t, written));
      return list;
    }
    if (v.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (std::optional<Tensor> t : v.toOptionalTensorList().vec())
        list.push_back(t ? std::optional<Tensor>(view_of(*t, written)) : std::nullopt);
      return list;
    }
    if (v.isDevice() && v.toDevice().type() == kNpu) return Device(c10::kCPU);
    return v;
  }

  const Operator &op_;
  std::optional<Device> device_;
  bool host_ = false;  // a host tensor came before any device tensor
  size_t host_argument_ = 0;
  std::vector<Operand> list_;
};

// The kernel may have resized or restrided a view (out=, in-place): do the same to the tensor.
void follow(const Operand &o) {
  const Tensor &t = o.device, &view = o.view;
  bool moved = view.storage().data() != t.storage().data();
  if (!moved && view.sizes() == t.sizes() && view.strides() == t.strides() &&
      view.storage_offset() == t.storage_offset())
    return;
  if (moved) t.resize_(view.sizes());
  t.unsafeGetTensorImpl()->set_sizes_and_strides(view.sizes(), view.strides(), view.storage_offset());
  if (moved) cpu_view(t).copy_(view);
}

class Results {
 public:
  Results(const std::vector<Operand> &operands, Device device) : operands_(operands), device_(device) {}

  IValue bring(const IValue &v) {
    if (v.isTensor()) return bring(v.toTensor());
    if (v.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor &t : v.toTensorVector()) list.push_back(bring(t));
      return list;
    }
    return v;
  }

  // Results that are new tensors, in the order of all results; undefined for the others.
  std::vector<Tensor> created;

 private:
  Tensor bring(const Tensor &t) {
    if (t.defined()) {
      for (const Operand &o : operands_)
        if (o.view.unsafeGetTensorImpl() == t.unsafeGetTensorImpl()) return keep(o.device);
      for (const Operand &o : operands_)
        if (t.has_storage() && t.storage().data() && t.storage().data() == o.view.storage().data() &&
            t.dtype() == o.device.dtype())
          return keep(at::as_strided(o.device, t.sizes(), t.strides(), t.storage_offset()));
    }
    if (!t.defined() || t.device().type() != c10::kCPU) return keep(t);
    Tensor made = new_on(t, device_);
    cpu_view(made).copy_(t);
    created.push_back(made);
    return made;
  }

  Tensor keep(const Tensor &t) {
    created.emplace_back();
    return t;
  }

  const std::vector<Operand> &operands_;
  Device device_;
};

void run_on_cpu(const Operator &op, Stack &stack, uint64_t seed) {
  const size_t base = stack.size() - op.written.size();
  std::optional<LentSeed> lent;
  if (op.generator >= 0) {
    stack[base + op.generator] = at::detail::createCPUGenerator(seed);
  } else if (op.draws) {
    lent.emplace(seed);
  }
  op.handle.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack);
}

// ---- capture --------------------------------------------------------------------------------

// While a stream captures, the operator runs, so that the ones after it find sane values (an
// index must be in range), and is recorded; the bytes that it wrote are put back when the
// capture ends. The record holds addresses, not tensors: a tensor that the program lets go
// before a replay is as dangling as on the device.
struct Recorded {
  const Operator *op;
  std::vector<IValue> arguments;
  std::vector<Tensor> created;  // views of the new results, undefined where a result is an operand
  at::Generator generator;      // draws at each replay; with `seeded` it has drawn
  bool seeded = false;
  uint64_t seed = 0;
};

int replay(void *argument) {
  auto *r = static_cast<Recorded *>(argument);
  try {
    at::AutoDispatchBelowADInplaceOrView guard;
    Stack stack(r->arguments.begin(), r->arguments.end());
    run_on_cpu(*r->op, stack, r->seeded ? r->seed : r->generator.defined() ? draw_seed(r->generator) : 0);
    size_t next = 0;
    auto put = [&](const Tensor &t) {
      const Tensor &to = r->created[next++];
      if (!to.defined()) return;
      TORCH_CHECK(t.sizes() == to.sizes(), r->op->handle.schema().operator_name(), " gives another shape on replay");
      const_cast<Tensor &>(to).copy_(t);
    };
    for (const IValue &v : stack) {
      if (v.isTensor()) put(v.toTensor());
      else if (v.isTensorList())
        for (const Tensor &t : v.toTensorVector()) put(t);
    }
    return ACL_SUCCESS;
  } catch (const c10::Error &error) {
    return ascend_sim_error(ACL_ERROR_RT_MODEL_EXECUTE, "%s", error.what_without_backtrace());
  } catch (const std::exception &error) {
    return ascend_sim_error(ACL_ERROR_RT_MODEL_EXECUTE, "%s", error.what());
  }
}

void drop_recorded(void *argument) { delete static_cast<Recorded *>(argument); }

void will_write(void *stream, const Tensor &t) {
  ascend_sim_capture_will_write(stream, t.mutable_data_ptr(), extent_bytes(t));
}

bool has_mask(const IValue &v) {
  auto mask = [](const Tensor &t) { return t.defined() && (t.scalar_type() == at::kBool || t.scalar_type() == at::kByte); };
  if (v.isOptionalTensorList()) {
    for (std::optional<Tensor> t : v.toOptionalTensorList().vec())
      if (t && mask(*t)) return true;
  }
  return false;
}

// Whether the shape of the results depends on the data.
bool shaped_by_data(const Operator &op, const Stack &stack, size_t base) {
  bool shape = op.data_shape;
  if (shape && op.indexes) {
    shape = false;
    for (size_t i = base; i < stack.size(); ++i) shape |= has_mask(stack[i]);
  }
  const auto &arguments = op.handle.schema().arguments();
  for (size_t i = 0; shape && i < arguments.size(); ++i)
    if (arguments[i].name() == "output_size" && !stack[base + i].isNone()) shape = false;
  return shape;
}

void refuse_in_capture(const Operator &op, const Stack &stack, size_t base, void *stream) {
  const auto &name = op.handle.schema().operator_name();
  if (op.reads_host || shaped_by_data(op, stack, base))
    check(ascend_sim_stream_host_access(stream, c10::str(name, op.reads_host ? " (a read by the host)"
                                                                              : " (a shape that depends on data)").c_str()));
}

// ---- the order of work ----------------------------------------------------------------------

// What an operator reads and writes of device memory. Tensors with gaps are left out: what
// lies between their elements is another's.
class Accesses {
 public:
  void add(const Tensor &t, bool written) {
    if (!on_npu(t) || t.numel() == 0 || !t.is_non_overlapping_and_dense()) return;
    starts_.push_back(t.data_ptr());
    sizes_.push_back(static_cast<size_t>(t.numel()) * t.dtype().itemsize());
    writes_.push_back(written);
  }
  void tell(void *stream, const std::string &operation) const {
    check(ascend_sim_access(stream, starts_.data(), sizes_.data(), writes_.data(), static_cast<int>(starts_.size()),
                            operation.c_str()));
  }

 private:
  std::vector<const void *> starts_;
  std::vector<size_t> sizes_;
  std::vector<int> writes_;
};

// ---- work that runs late ----------------------------------------------------------------------

// Work is guessed within the scope, where work runs late, and queued where it is said to be.
class Guess {
 public:
  explicit Guess(void *stream) : stream_(stream), on_(stream && ascend_sim_deferring() && ascend_sim_work_begin(stream)) {}
  ~Guess() {
    if (on_) ascend_sim_work_end(stream_, nullptr, nullptr, nullptr, 0);
  }
  Guess(const Guess &) = delete;
  Guess &operator=(const Guess &) = delete;
  explicit operator bool() const { return on_; }
  void queue(int (*run)(void *), void *argument, void (*drop)(void *), bool to_host = false) {
    on_ = false;
    ascend_sim_work_end(stream_, run, argument, drop, to_host);
  }

 private:
  void *stream_;
  bool on_;
};

class Direct {
 public:
  Direct() { ascend_sim_direct_begin(); }
  ~Direct() { ascend_sim_direct_end(); }
  Direct(const Direct &) = delete;
  Direct &operator=(const Direct &) = delete;
};

// ---- what a program asks of the device ------------------------------------------------------

// The dtypes of all tensors among the values, in order, as torch names them.
std::string dtypes_of(at::ArrayRef<IValue> values) {
  std::string names;
  const auto add = [&](const Tensor &t) {
    if (!t.defined()) return;
    if (!names.empty()) names += ',';
    names += c10::getDtypeNames(t.scalar_type()).first;
  };
  for (const IValue &value : values) {
    if (value.isTensor()) add(value.toTensor());
    else if (value.isTensorList())
      for (const Tensor &t : value.toTensorList()) add(t);
    else if (value.isList())
      for (const IValue &one : value.toListRef())
        if (one.isTensor()) add(one.toTensor());
  }
  return names;
}

// A value for the host is copied there; a shape that depends on data is waited for as well.
void tell(const Operator &op, const std::vector<IValue> &given, const Stack &stack, bool shape) {
  const std::string name = toString(op.handle.schema().operator_name());
  const size_t returned = op.handle.schema().returns().size();
  const std::string dtypes = dtypes_of(given) + "->" + dtypes_of(at::ArrayRef<IValue>(stack).slice(stack.size() - returned));
  if (op.reads_host) ascend_sim_observe("to host", name.c_str(), "", 8);
  else ascend_sim_observe("launch", name.c_str(), dtypes.c_str(), 0);
  if (op.reads_host || shape) ascend_sim_observe("wait", name.c_str(), "", 0);
}

// One launch on a device, whatever it is composed of here. What it writes is not known before
// its end, and is left out of its dtypes.
class Whole {
 public:
  Whole(const c10::OperatorHandle &op, const Stack &stack) {
    if (!ascend_sim_observed()) return;
    name_ = toString(op.schema().operator_name());
    dtypes_ = dtypes_of(at::ArrayRef<IValue>(stack).slice(stack.size() - op.schema().arguments().size())) + "->";
    ascend_sim_observe_begin();
  }
  ~Whole() {
    if (!name_.empty()) ascend_sim_observe_end(name_.c_str(), dtypes_.c_str(), 0);
  }

 private:
  std::string name_, dtypes_;
};

void tell_copy(const Tensor &dst, const Tensor &src, bool queued) {
  if (!ascend_sim_observed() || dst.numel() == 0) return;
  const bool to = on_npu(dst), from = on_npu(src);
  if (to && from) {
    const std::string dtypes = dtypes_of({IValue(src)}) + "->" + dtypes_of({IValue(dst)});
    return ascend_sim_observe("launch", "aten::copy_", dtypes.c_str(), 0);
  }
  const char *what = queued ? "of pinned memory" : "of pageable memory";
  ascend_sim_observe(to ? "to device" : "to host", what, "", src.nbytes());
  if (!queued) ascend_sim_observe("wait", to ? "a copy to the device" : "a copy to the host", "", 0);
}

// ---- the kernel -----------------------------------------------------------------------------

void kernel(const c10::OperatorHandle &handle, c10::DispatchKeySet, Stack *stack) {
  const Operator &op = describe(handle);
  const size_t count = op.written.size(), base = stack->size() - count;
  std::vector<IValue> given(stack->begin() + base, stack->end());
  Operands operands(op, *stack, base);
  const Device device = operands.device();

  void *stream = special_stream(device);
  const bool capturing = stream && ascend_sim_stream_capturing(stream);
  void *const own = watched_stream(device);
  if (!capturing && (op.reads_host || shaped_by_data(op, *stack, base))) {
    check(ascend_sim_work_wait(own));
    if (ascend_sim_watched()) host_waited(own, device);
  }
  Guess guess(capturing ? nullptr : own);
  ascend_sim_launch(own);
  if (stream && !capturing) check(ascend_sim_stream_host_access(stream, toString(op.handle.schema().operator_name()).c_str()));
  if (capturing) {
    refuse_in_capture(op, *stack, base, stream);
    for (const Operand &o : operands.list())
      if (o.written) will_write(stream, o.device);
  }

  at::Generator generator;
  uint64_t seed = 0;
  if (op.generator >= 0 || op.draws) {
    generator = device_generator(op.generator >= 0 ? given[op.generator] : IValue(), device);
    if (!capturing) seed = draw_seed(generator);  // the state moves on at each replay instead
  }

  run_on_cpu(op, *stack, seed);
  if (ascend_sim_observed()) tell(op, given, *stack, shaped_by_data(op, given, 0));

  for (const Operand &o : operands.list())
    if (o.written) follow(o);
  const size_t returned = handle.schema().returns().size(), first = stack->size() - returned;
  Results results(operands.list(), device);
  for (size_t i = 0; i < returned; ++i) (*stack)[first + i] = results.bring((*stack)[first + i]);

  if (!capturing && own && ascend_sim_several_streams()) {
    Accesses accesses;
    for (const Operand &o : operands.list()) accesses.add(o.device, o.written);
    for (const Tensor &t : results.created) accesses.add(t, true);
    accesses.tell(own, toString(handle.schema().operator_name()));
  }
  if (capturing || (guess && !op.reads_host)) {
    auto record = std::make_unique<Recorded>();
    record->op = &op;
    record->generator = generator;
    record->seeded = !capturing;
    record->seed = seed;
    for (const IValue &v : given) record->arguments.push_back(Operands::frozen(v));
    for (const Tensor &t : results.created) {
      record->created.push_back(t.defined() ? cpu_view(t) : t);
      if (t.defined() && capturing) ascend_sim_capture_will_create(stream, t.storage().mutable_data(), t.storage().nbytes());
    }
    if (capturing) check(ascend_sim_stream_submit(stream, replay, record.release(), drop_recorded));
    else guess.queue(replay, record.release(), drop_recorded);
  }
}

// ---- copies ---------------------------------------------------------------------------------

struct RecordedCopy {
  Tensor dst, src;
};

int replay_copy(void *argument) {
  auto *r = static_cast<RecordedCopy *>(argument);
  at::AutoDispatchBelowADInplaceOrView guard;
  r->dst.copy_(r->src);
  return ACL_SUCCESS;
}

int replay_copy_to_host(void *argument) {
  const Tensor &host = static_cast<RecordedCopy *>(argument)->dst;
  ascend_sim_host_memory_filled(host.data_ptr(), host.nbytes());
  return replay_copy(argument);
}

void drop_copy(void *argument) { delete static_cast<RecordedCopy *>(argument); }

// Whether torch_npu queues such a copy and goes on: of pinned memory, as it lies. It waits for
// every other, for it has to go through memory of its own or to find pages.
bool waits_for_nothing(const Tensor &dst, const Tensor &src) {
  const Tensor &host = on_npu(dst) ? src : dst;
  return dst.dtype() == src.dtype() && dst.sizes() == src.sizes() && dst.is_contiguous() && src.is_contiguous() &&
         dst.numel() != 0 && !dst.is_conj() && !src.is_conj() && !dst.is_neg() && !src.is_neg() &&
         ascend_sim_is_pinned(host.data_ptr());
}

// A copy outside a capture; `queued` if the host does not wait for it.
void move(const Tensor &dst, const Tensor &src, Tensor &to, const Tensor &from, bool queued, void *stream) {
  const Tensor &host = on_npu(dst) ? src : dst, &device = on_npu(dst) ? dst : src;
  const bool between = !on_npu(host);
  if (queued) ascend_sim_host_memory_ready(host.data_ptr(), host.nbytes());
  else if (between && ascend_sim_watched()) host_waited(stream, device.device());
  ascend_sim_launch(stream);
  // A copy that the host waits for, or of another device's, is done when it returns.
  std::optional<Direct> direct;
  if (!stream || (between && !queued)) direct.emplace();
  Guess guess(direct ? nullptr : stream);
  const bool to_host = !on_npu(dst), late = guess && queued && to_host;
  if (!late) to.copy_(from);
  tell_copy(dst, src, queued);
  if (stream && ascend_sim_several_streams()) {
    Accesses accesses;
    accesses.add(src, false);
    accesses.add(dst, true);
    accesses.tell(stream, "a copy");
  }
  if (queued)
    ascend_sim_copy_pending(stream, host.data_ptr(), device.data_ptr(), host.nbytes(), to_host, late,
                            new c10::Storage(host.storage()), [](void *held) { delete static_cast<c10::Storage *>(held); },
                            [](void *held) -> int { return static_cast<c10::Storage *>(held)->use_count() > 1; });
  if (!guess) return;
  auto *again = new RecordedCopy{to, from};
  if (late) guess.queue(replay_copy_to_host, again, drop_copy, true);
  else guess.queue(replay_copy, again, drop_copy);
}

// Between any two of host and devices. The host waits for a copy that is not `non_blocking`,
// which a capturing stream forbids.
void transfer(const Tensor &dst, const Tensor &src, bool non_blocking) {
  const Device device = on_npu(dst) ? dst.device() : src.device();
  void *stream = special_stream(device);
  const bool capturing = stream && ascend_sim_stream_capturing(stream);
  const bool host = !on_npu(dst) || !on_npu(src);
  if (stream && (!capturing || (host && !non_blocking)))
    check(ascend_sim_stream_host_access(stream, host ? "a copy between host and device that the host waits for" : "a copy"));
  if (capturing && on_npu(dst)) will_write(stream, dst);
  Tensor to = cpu_view(dst), from = cpu_view(src);
  if (!capturing) {
    void *const own = watched_stream(device);
    move(dst, src, to, from, own && host && non_blocking && waits_for_nothing(dst, src), own);
    return;
  }
  if (capturing && !on_npu(dst)) {
    // Host memory gets its value at replay; what it holds until then is left alone.
    check(ascend_sim_stream_submit(stream, replay_copy, new RecordedCopy{to, from}, drop_copy));
    return;
  }
  to.copy_(from);
  check(ascend_sim_stream_submit(stream, replay_copy, new RecordedCopy{to, from}, drop_copy));
}

Tensor &copy_(Tensor &self, const Tensor &src, bool non_blocking) {
  transfer(self, src, non_blocking);
  return self;
}

Tensor copy_from(const Tensor &self, const Tensor &dst, bool non_blocking) {
  transfer(dst, self, non_blocking);
  return dst;
}

Tensor copy_from_and_resize(const Tensor &self, const Tensor &dst) {
  if (dst.sizes() != self.sizes()) dst.resize_(self.sizes());
  transfer(dst, self, false);
  return dst;
}

// ---- fresh memory ----------------------------------------------------------------------------

// torch's own choice of a backend, as it is generated, and garbage in what the device gave.
Tensor filled(Tensor t) {
  if (on_npu(t) && t.layout() == c10::kStrided && t.has_storage() && t.storage().nbytes() != 0)
    ascend_sim_fill_fresh(t.storage().mutable_data(), t.storage().nbytes());
  return t;
}

c10::DispatchKeySet backend(std::optional<at::ScalarType> dtype, std::optional<at::Layout> layout,
                            std::optional<Device> device) {
  return c10::DispatchKeySet(c10::computeDispatchKey(dtype, layout, device));
}

Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout> layout,
             std::optional<Device> device, std::optional<bool> pin, std::optional<at::MemoryFormat> format) {
  return filled(at::_ops::empty_memory_format::redispatch(backend(dtype, layout, device), size, dtype, layout, device,
                                                          pin, format));
}

Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout> layout, std::optional<Device> device, std::optional<bool> pin) {
  return filled(
      at::_ops::empty_strided::redispatch(backend(dtype, layout, device), size, stride, dtype, layout, device, pin));
}

// ---- registration ------------------------------------------------------------------------------

// Taking the place of torch_npu's kernels is the point: the dispatcher need not warn of it.
class Silence : public c10::WarningHandler {
 public:
  void process(const c10::Warning &) override {}
};

torch::Library &library(c10::DispatchKey key) {
  static std::map<c10::DispatchKey, torch::Library *> made;
  torch::Library *&entry = made[key];
  if (!entry) entry = new torch::Library(torch::Library::IMPL, "aten", key, __FILE__, __LINE__);
  return *entry;
}

bool returns_view(const c10::FunctionSchema &schema) {
  for (const auto &r : schema.returns())
    if (r.alias_info() && !r.alias_info()->isWrite()) return true;
  return false;
}

// An operator that torch composes of others on every device, where torch_npu has a fused
// one: compose it. The parts come to the kernel above, and autograd sees them.
void compose(const c10::OperatorHandle &op, c10::DispatchKeySet, Stack *stack) {
  const Whole whole(op, *stack);
  op.callBoxedForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd, *stack);
}

// An operator that torch_npu differentiates by an operator of its own: use torch's formula.
void differentiate(const c10::OperatorHandle &op, c10::DispatchKeySet, Stack *stack) {
  op.callBoxedForDispatchKey(c10::DispatchKey::Autograd, *stack);
}

std::optional<c10::OperatorHandle> find(const std::string &name) {
  size_t dot = name.find('.');
  return c10::Dispatcher::singleton().findSchema(
      {"aten::" + name.substr(0, dot), dot == std::string::npos ? "" : name.substr(dot + 1)});
}

bool composed(const c10::OperatorHandle &op) {
  return op.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd) &&
         !op.hasKernelForDispatchKey(c10::DispatchKey::CPU);
}

// The device's fused attention has no CPU kernel of its own shape: compose it.
int64_t sdp_choice(const Tensor &, const Tensor &, const Tensor &, const std::optional<Tensor> &, double, bool,
                   std::optional<double>, bool) {
  return 0;  // SDPBackend::math
}

// The recurrent cells, which only devices have; differentiable as they stand.
std::tuple<Tensor, Tensor, Tensor> lstm_cell(const Tensor &input_gates, const Tensor &hidden_gates, const Tensor &cx,
                                             const std::optional<Tensor> &input_bias,
                                             const std::optional<Tensor> &hidden_bias) {
  Tensor gates = input_gates + hidden_gates;
  if (input_bias && input_bias->defined()) gates = gates + *input_bias;
  if (hidden_bias && hidden_bias->defined()) gates = gates + *hidden_bias;
  auto parts = gates.chunk(4, 1);
  Tensor in = parts[0].sigmoid(), forget = parts[1].sigmoid(), cell = parts[2].tanh(), out = parts[3].sigmoid();
  Tensor cy = forget * cx + in * cell;
  Tensor hy = out * cy.tanh();
  return {hy, cy, at::cat({in, forget, cell, out}, 1)};
}

std::tuple<Tensor, Tensor> gru_cell(const Tensor &input_gates, const Tensor &hidden_gates, const Tensor &hx,
                                    const std::optional<Tensor> &input_bias, const std::optional<Tensor> &hidden_bias) {
  Tensor x = input_bias && input_bias->defined() ? input_gates + *input_bias : input_gates;
  Tensor h = hidden_bias && hidden_bias->defined() ? hidden_gates + *hidden_bias : hidden_gates;
  auto xs = x.chunk(3, 1), hs = h.chunk(3, 1);
  Tensor reset = (xs[0] + hs[0]).sigmoid(), update = (xs[1] + hs[1]).sigmoid();
  Tensor fresh = (xs[2] + reset * hs[2]).tanh();
  return {(hx - fresh) * update + fresh, at::cat({reset, update, fresh, hx, hs[2]}, 1)};
}

// Put the kernels behind these operators ("add.Tensor" for aten::add.Tensor), views left out:
// `device` are those that torch_npu computes, `autograd` those that it differentiates. Gives
// the names that are computed here.
std::vector<std::string> take_over(const std::vector<std::string> &device, const std::vector<std::string> &autograd,
                                   bool fresh) {
  Silence silence;
  c10::WarningUtils::WarningHandlerGuard guard(&silence);
  torch::Library &kernels = library(c10::DispatchKey::PrivateUse1);
  torch::Library &derivatives = library(c10::DispatchKey::AutogradPrivateUse1);
  std::vector<std::string> taken;
  std::set<std::string> whole;
  for (const std::string &name : device) {
    auto op = find(name);
    if (!op) continue;
    if (composed(*op)) {
      // Above autograd as well: where a device has a kernel for the whole, torch would
      // differentiate the whole by an operator that only a device has.
      kernels.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&compose>());
      derivatives.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&compose>());
      whole.insert(name);
    } else if (!returns_view(op->schema())) {
      kernels.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&kernel>());
    } else {
      continue;
    }
    taken.push_back(name);
  }
  for (const std::string &name : autograd) {
    auto op = find(name);
    if (!op || whole.count(name)) continue;
    if (composed(*op)) {
      derivatives.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&compose>());
    } else if (op->hasKernelForDispatchKey(c10::DispatchKey::Autograd)) {
      derivatives.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&differentiate>());
    }
  }
  if (fresh) {
    torch::Library &choice = library(c10::DispatchKey::BackendSelect);
    choice.impl("empty.memory_format", &empty);
    choice.impl("empty_strided", &empty_strided);
  }
  kernels.impl("copy_", &copy_);
  kernels.impl("_copy_from", &copy_from);
  kernels.impl("_copy_from_and_resize", &copy_from_and_resize);
  kernels.impl("_fused_sdp_choice", &sdp_choice);
  for (torch::Library *l : {&kernels, &derivatives}) {
    l->impl("_thnn_fused_lstm_cell", &lstm_cell);
    l->impl("_thnn_fused_gru_cell", &gru_cell);
  }
  return taken;
}

Tensor host_view(const Tensor &t, bool own) {
  TORCH_CHECK(on_npu(t), "host_view takes a tensor on the npu, not on ", t.device());
  ascend_sim_launch(nullptr);
  Direct nothing_is_queued;
  return cpu_view(t, own);
}

}  // namespace

TORCH_LIBRARY(ascend_sim, m) {
  m.def("take_over(str[] device, str[] autograd, bool fresh) -> str[]", &take_over);
  m.def("host_view(Tensor x, bool own=True) -> Tensor");
}
TORCH_LIBRARY_IMPL(ascend_sim, CompositeImplicitAutograd, m) {
  m.impl("host_view", &host_view);
}
