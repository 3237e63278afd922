#include "dispatch/interpreter_hook.h"

#include "dispatch/fake_kernel.h"
#include "dispatch/interpreter_table.h"
#include "dispatch/kernel_invocation.h"
#include "dispatch/mode_stack.h"
#include "dispatch/native_detach.h"
#include "dispatch/thread_state.h"
#include "objects/fake_tensor.h"
#include "objects/native_mode.h"
#include "objects/python_guards.h"

#include <c10/core/impl/PyInterpreter.h>
#include <torch/csrc/PyInterpreter.h>

#include <utility>

namespace fastfake {

namespace {

using c10::TensorImpl;
using c10::impl::PyInterpreterVTable;

// Without a mode, fake tensors among the arguments bring theirs along. Returns it if every argument
// that has a say in the dispatch is a fake tensor of that mode; null leaves the call to torch.
class ModeOfArguments {
 public:
  ModeState* find(c10::ArrayRef<c10::IValue> arguments) {
    for (const auto& argument : arguments) {
      if (!look_at(argument)) return nullptr;
    }
    return mode_ == nullptr ? nullptr : native_mode(mode_);
  }

 private:
  bool look_at(const c10::IValue& value) {
    if (value.isTensor()) return look_at(value.unsafeToTensorImpl());
    if (!value.isList()) return true;
    for (const auto& element : value.toListRef()) {
      if (!look_at(element)) return false;
    }
    return true;
  }

  bool look_at(const TensorImpl* impl) {
    if (!impl->key_set().has(c10::DispatchKey::Python)) return true;
    const auto fake = FakeTensorView::of(impl);
    if (!fake || !dispatches_natively(Py_TYPE(fake.object()))) return false;
    if (mode_ == nullptr) mode_ = fake.mode();
    return mode_ == fake.mode();
  }

  PyObject* mode_ = nullptr;
};

// While torch computes in Python what the hook was asked for.
class SentOn {
 public:
  SentOn() = default;
  SentOn(const SentOn&) = delete;
  SentOn& operator=(const SentOn&) = delete;
  ~SentOn() { thread_state.came_through_the_hook = before_; }

 private:
  const bool before_ = std::exchange(thread_state.came_through_the_hook, true);
};

class InterpreterHook final : public PyInterpreterVTable {
 public:
  explicit InterpreterHook(const PyInterpreterVTable* torch_table) : torch_(torch_table) {}

  // Whether dispatches come here, directly or through another decorator. The harmless method that tells is
  // one that decorators forward.
  bool is_reached() const {
    reached_ = false;
    getPyInterpreter()->vtable_->name();
    return reached_;
  }

  void put_on_top() {
    if (is_reached()) return;
    torch_ = getPyInterpreter()->vtable_;
    getPyInterpreter()->vtable_ = this;
  }

  // Below another decorator the hook has to stay, since that decorator would still call it.
  void take_off_if_on_top() const {
    if (getPyInterpreter()->vtable_ == this) getPyInterpreter()->vtable_ = torch_;
  }

  void dispatch(const c10::OperatorHandle& op, torch::jit::Stack* stack) const override {
    {
      const GilGuard gil;
      if (PyObject* top = top_mode()) {
        if (ModeState* mode = native_mode(top)) {
          // The stack of modes may change under the call; the reference keeps the mode alive.
          const auto keep = PyRef::borrow(top);
          return run_fake_kernel(op, stack, mode);
        }
      } else {
        ModeState* mode = ModeOfArguments().find(torch::jit::last(*stack, op.schema().arguments().size()));
        if (mode != nullptr && !in_kernel_invocation(mode)) {
          // Python code that runs while results are made may take the mode from the argument.
          const auto keep = PyRef::borrow(reinterpret_cast<PyObject*>(mode));
          if (answer_from_cache(op, stack, mode)) return;
        }
      }
    }
    dispatch_by_torch(op, stack);
  }

  c10::Device device(const TensorImpl* self) const override {
    // No GIL: the object of a live tensor is alive, and the device in its slot is never freed.
    const auto fake = FakeTensorView::of(self);
    if (!fake) {
      // One that lost its mode or its device. torch's answer would be an error, which ends the process where
      // the function of a gradient is made; the attribute `device` raises it.
      return is_of_fake_class(*self) ? c10::Device(c10::kMeta) : torch_->device(self);
    }
    return in_kernel_invocation(fake.mode()) ? c10::Device(c10::kMeta) : fake.device();
  }

  c10::intrusive_ptr<TensorImpl> detach(const TensorImpl* self) const override {
    {
      const GilGuard gil;
      if (auto detached = detach_fake(*self)) return detached;
    }
    return torch_->detach(self);
  }

  std::string name() const override {
    reached_ = true;
    return torch_->name();
  }
  void incref(PyObject* object) const override {
    const GilGuard gil;
    Py_INCREF(object);
  }
  void decref(PyObject* object) const override {
    if (C10_UNLIKELY(Py_IsInitialized() == 0)) return;  // what is left then is the process's to free
    const GilGuard gil;
    Py_DECREF(object);
  }
  size_t refcnt(PyObject* object) const override {
    if (C10_UNLIKELY(Py_IsInitialized() == 0 || object == nullptr)) return 0;
    const GilGuard gil;
    return static_cast<size_t>(Py_REFCNT(object));
  }
  bool try_incref(const c10::impl::PyObjectSlot& slot) const override { return torch_->try_incref(slot); }
  void reportErrorCallback(PyObject* callback, c10::DispatchKey key) const override {
    torch_->reportErrorCallback(callback, key);
  }
  void python_op_registration_trampoline(const c10::OperatorHandle& op, c10::DispatchKey key,
                                         c10::DispatchKeySet keys, torch::jit::Stack* stack, bool with_keyset,
                                         bool with_op) const override {
    torch_->python_op_registration_trampoline(op, key, keys, stack, with_keyset, with_op);
  }
  void throw_abstract_impl_not_imported_error(std::string operator_name, const char* python_module,
                                              const char* context) const override {
    torch_->throw_abstract_impl_not_imported_error(std::move(operator_name), python_module, context);
  }
  void python_dispatcher(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                         torch::jit::Stack* stack) const override {
    torch_->python_dispatcher(op, keys, stack);
  }

  // Questions about a tensor, which torch asks the mode in Python where sizes are symbolic.
  template <class Question, class... Arguments>
  auto ask(Question question, Arguments... arguments) const {
    const SentOn sent;
    return (torch_->*question)(arguments...);
  }
  bool is_contiguous(const TensorImpl* self, at::MemoryFormat format) const override {
    return ask(&PyInterpreterVTable::is_contiguous, self, format);
  }
  c10::SymBool sym_is_contiguous(const TensorImpl* self, at::MemoryFormat format) const override {
    return ask(&PyInterpreterVTable::sym_is_contiguous, self, format);
  }
  bool is_strides_like(const TensorImpl* self, at::MemoryFormat format) const override {
    return ask(&PyInterpreterVTable::is_strides_like, self, format);
  }
  bool is_non_overlapping_and_dense(const TensorImpl* self) const override {
    return ask(&PyInterpreterVTable::is_non_overlapping_and_dense, self);
  }
  int64_t dim(const TensorImpl* self) const override { return ask(&PyInterpreterVTable::dim, self); }
  c10::IntArrayRef strides(const TensorImpl* self) const override {
    return ask(&PyInterpreterVTable::strides, self);
  }
  c10::IntArrayRef sizes(const TensorImpl* self) const override {
    return ask(&PyInterpreterVTable::sizes, self);
  }
  c10::SymIntArrayRef sym_sizes(const TensorImpl* self) const override {
    return ask(&PyInterpreterVTable::sym_sizes, self);
  }
  c10::Layout layout(const TensorImpl* self) const override {
    return ask(&PyInterpreterVTable::layout, self);
  }
  int64_t numel(const TensorImpl* self) const override { return ask(&PyInterpreterVTable::numel, self); }
  c10::SymInt sym_numel(const TensorImpl* self) const override {
    return ask(&PyInterpreterVTable::sym_numel, self);
  }
  c10::SymIntArrayRef sym_strides(const TensorImpl* self) const override {
    return ask(&PyInterpreterVTable::sym_strides, self);
  }
  c10::SymInt sym_storage_offset(const TensorImpl* self) const override {
    return ask(&PyInterpreterVTable::sym_storage_offset, self);
  }
  void trace_gpu_event_creation(at::DeviceType type, uintptr_t event) const override {
    torch_->trace_gpu_event_creation(type, event);
  }
  void trace_gpu_event_deletion(at::DeviceType type, uintptr_t event) const override {
    torch_->trace_gpu_event_deletion(type, event);
  }
  void trace_gpu_event_record(at::DeviceType type, uintptr_t event, uintptr_t stream) const override {
    torch_->trace_gpu_event_record(type, event, stream);
  }
  void trace_gpu_event_wait(at::DeviceType type, uintptr_t event, uintptr_t stream) const override {
    torch_->trace_gpu_event_wait(type, event, stream);
  }
  void trace_gpu_memory_allocation(at::DeviceType type, uintptr_t pointer) const override {
    torch_->trace_gpu_memory_allocation(type, pointer);
  }
  void trace_gpu_memory_deallocation(at::DeviceType type, uintptr_t pointer) const override {
    torch_->trace_gpu_memory_deallocation(type, pointer);
  }
  void trace_gpu_stream_creation(at::DeviceType type, uintptr_t stream) const override {
    torch_->trace_gpu_stream_creation(type, stream);
  }
  void trace_gpu_device_synchronization(at::DeviceType type) const override {
    torch_->trace_gpu_device_synchronization(type);
  }
  void trace_gpu_stream_synchronization(at::DeviceType type, uintptr_t stream) const override {
    torch_->trace_gpu_stream_synchronization(type, stream);
  }
  void trace_gpu_event_synchronization(at::DeviceType type, uintptr_t event) const override {
    torch_->trace_gpu_event_synchronization(type, event);
  }
  void reset_backward_hooks(const TensorImpl* self) const override { torch_->reset_backward_hooks(self); }

  const PyInterpreterVTable* torch_table() const { return torch_; }

 private:
  const PyInterpreterVTable* torch_;  // torch's own table, or the decorator of it that was there before
  mutable bool reached_ = false;
};

// Made at the first installation and kept: another thread may be inside one of its methods when it is
// removed, and tensors may die through it at interpreter exit.
InterpreterHook& hook() {
  static auto* instance = new InterpreterHook(getPyInterpreter()->vtable_);
  return *instance;
}

}  // namespace

void dispatch_by_torch(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const SentOn sent;
  hook().torch_table()->dispatch(op, stack);
}

void install_interpreter_hook() {
  hook().put_on_top();
  process().instance_check.install();
}

void remove_interpreter_hook() {
  process().instance_check.remove();
  hook().take_off_if_on_top();
}

bool interpreter_table_has_as_many_methods_as_the_hook() {
  return count_methods(*getPyInterpreter()->vtable_) == count_methods(hook());
}

bool interpreter_hook_installed() { return hook().is_reached(); }

}  // namespace fastfake
