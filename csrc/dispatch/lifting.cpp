#include "dispatch/lifting.h"

#include "objects/python_guards.h"
#include "process_state.h"

#include <ATen/EmptyTensor.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/disable_torch_function.h>

#include <typeinfo>

namespace fastfake {

namespace {

using c10::DispatchKey;
using c10::DispatchKeySet;

// Those of a strided tensor on the CPU whose storage holds its elements as they are.
DispatchKeySet keys_of_plain_tensors() {
  static const auto keys = [] {
    const c10::InferenceMode outside(/*enabled=*/false);
    return at::detail::empty_cpu({0}, at::kFloat).key_set();
  }();
  return keys;
}

// What converters remember they know by Python objects.
bool is_seen_by_python(const c10::TensorImpl& impl) {
  return impl.pyobj_slot()->load_pyobj() != nullptr ||
         impl.storage().unsafeGetStorageImpl()->pyobj_slot()->load_pyobj() != nullptr;
}

// All of its storage, and nobody else's.
bool has_storage_of_its_own(const c10::TensorImpl& impl) {
  return impl.storage().use_count() == 1 && impl.storage_offset() == 0 &&
         impl.storage().nbytes() ==
             at::detail::computeStorageNbytes(impl.sizes(), impl.strides(), impl.itemsize());
}

bool is_fresh_and_plain(const at::Tensor& tensor) {
  if (!tensor.defined()) return false;
  const auto& impl = *tensor.unsafeGetTensorImpl();
  return typeid(impl) == typeid(c10::TensorImpl) && impl.key_set() == keys_of_plain_tensors() &&
         impl.has_storage() && !impl.has_symbolic_sizes_strides() && impl.autograd_meta() == nullptr &&
         !impl.is_wrapped_number() && !is_seen_by_python(impl) && has_storage_of_its_own(impl);
}

// Whether what is computed below the mode is what the kernels of the CPU compute: no transform of functorch
// and no other layer of the dispatcher is at work. The Python dispatcher, which is on while AOTAutograd
// traces, looks for a function in the place of a kernel first.
bool nothing_else_is_below(bool has_rule_of_programs) {
  const auto keys = c10::impl::tls_local_dispatch_key_set();
  constexpr DispatchKeySet usual({DispatchKey::Python, DispatchKey::PythonTLSSnapshot,
                                  DispatchKey::PythonDispatcher, DispatchKey::BackendSelect,
                                  DispatchKey::ADInplaceOrView});
  if (has_rule_of_programs && keys.included_.has(DispatchKey::PythonDispatcher)) return false;
  return (keys.included_ - usual).empty() && keys.excluded_.has(DispatchKey::ADInplaceOrView) &&
         keys.excluded_.has(DispatchKey::AutogradFunctionality) && !c10::InferenceMode::is_enabled();
}

}  // namespace

bool lift(const c10::OperatorHandle& op, bool has_rule_of_programs, torch::jit::Stack* stack,
          ModeState* mode) {
  if (mode->propagate_real_tensors || !is_fresh_and_plain(stack->back().toTensor()) ||
      !nothing_else_is_below(has_rule_of_programs)) {
    return false;
  }
  const torch::DisableTorchDispatch without_modes;
  torch::jit::Stack lifted = {stack->back()};
  op.callBoxed(&lifted);
  const auto real = lifted.back().toTensor();
  if (!is_fresh_and_plain(real)) return false;
  const auto object = PyRef::steal(THPVariable_Wrap(real));
  const auto fake = PyRef::steal(PyObject_CallFunctionObjArgs(
      process().lift_plain, reinterpret_cast<PyObject*>(mode), object.get(), nullptr));
  if (fake.get() == Py_None) return false;
  TORCH_CHECK_TYPE(THPVariable_Check(fake.get()), "a real tensor must have a fake one");
  stack->back() = THPVariable_Unpack(fake.get());
  return true;
}

}  // namespace fastfake
