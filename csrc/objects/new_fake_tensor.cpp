#include "objects/new_fake_tensor.h"

#include "objects/python_guards.h"
#include "process_state.h"

#include <ATen/EmptyTensor.h>
#include <c10/core/Allocator.h>
#include <c10/core/StorageImpl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pyobject_preservation.h>

#include <new>
#include <utility>

namespace fastfake {

namespace {

// What torch's own shallow copies use, and what is protected.
struct ProtectedParts : c10::TensorImpl {
  using c10::TensorImpl::copy_generic_tensor_metadata;

  static c10::VariableVersion& version_counter_of(c10::TensorImpl& impl) {
    return impl.*(&ProtectedParts::version_counter_);
  }
};

void fill_slot(PyObject* object, Py_ssize_t offset, PyObject* value) noexcept {
  *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offset) = Py_NewRef(value);
}

}  // namespace

void observe_new_tensors(PyObject* callable) {
  Py_XSETREF(process().fake_tensor.observer, callable == Py_None ? nullptr : Py_XNewRef(callable));
}

c10::Storage fresh_storage(c10::SymInt bytes, bool unsafe_data_ptr) {
  static auto* const meta_allocator = c10::GetAllocator(c10::kMeta);
  auto storage = c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), std::move(bytes),
                                                       c10::DataPtr(nullptr, c10::Device(c10::kMeta)),
                                                       meta_allocator, /*resizable=*/true);
  if (unsafe_data_ptr) {
    storage->set_warn_deprecated_on_mutable_data_ptr();
  } else {
    storage->set_throw_on_mutable_data_ptr();
  }
  return c10::Storage(std::move(storage));
}

c10::intrusive_ptr<c10::TensorImpl> clone_on_storage(const c10::TensorImpl& prototype, c10::Storage storage) {
  // The VIEW constructor takes the key set as it is, where the others derive autograd keys from the
  // backend and from inference mode; it drops the Python keys, which come back below.
  auto impl = c10::make_intrusive<c10::TensorImpl>(c10::TensorImpl::VIEW, std::move(storage),
                                                   prototype.key_set(), prototype.dtype());
  ProtectedParts::copy_generic_tensor_metadata(&prototype, impl.get());
  // An inference tensor made outside of inference mode, as views are, may be written to there since it
  // counts versions. The constructor counts none for any inference tensor, and the setter refuses to.
  if (C10_UNLIKELY(prototype.version_counter().enabled() && !impl->version_counter().enabled())) {
    ProtectedParts::version_counter_of(*impl) = c10::VariableVersion(/*version=*/0);
  }
  impl->set_python_dispatch(true);
  impl->set_python_custom_device(true);  // `device` asks the interpreter hook
  return impl;
}

at::Tensor adopt_as_fake(c10::intrusive_ptr<c10::TensorImpl> impl, PyObject* mode, PyObject* device) {
  TORCH_INTERNAL_ASSERT(impl.unique(), "a TensorImpl that others refer to cannot get a Python object here");
  const auto& layout = process().fake_tensor;
  // What THPVariable_Wrap does for a class that it has to examine first; this class is known.
  auto object = PyRef::steal(layout.type->tp_alloc(layout.type, 0));
  at::Tensor tensor(std::move(impl));
  // The second reference, from C++, is there before the object is: once both are, taking one goes through the
  // interpreter's table and its locks. From here on C++ keeps the object alive.
  new (&reinterpret_cast<THPVariable*>(object.get())->cdata) at::Tensor(tensor);
  torch::utils::PyObjectPreservation::get_or_init(*tensor.unsafeGetTensorImpl(),
                                                  [&object] { return object.get(); });
  fill_slot(object.get(), layout.fake_device, device);
  fill_slot(object.get(), layout.fake_mode, mode);
  for (const auto offset :
       {layout.constant, layout.real_tensor, layout.pytype, layout.dispatch_keys, layout.memos}) {
    fill_slot(object.get(), offset, Py_None);
  }
  if (C10_UNLIKELY(layout.observer != nullptr)) {
    const auto observer = PyRef::borrow(layout.observer);  // which may replace itself
    PyRef::steal(PyObject_CallOneArg(observer.get(), object.get()));
  }
  return tensor;
}

at::Tensor fake_of_plain(const at::Tensor& real, PyObject* mode, bool unsafe_data_ptr) {
  const at::Tensor meta = at::detail::empty_strided_meta(real.sizes(), real.strides(), real.scalar_type());
  auto impl = clone_on_storage(*meta.unsafeGetTensorImpl(),
                               fresh_storage(meta.storage().sym_nbytes(), unsafe_data_ptr));
  impl->_change_backend_component_keys(c10::kCPU);
  return adopt_as_fake(std::move(impl), mode, process().devices.object(c10::kCPU));
}

}  // namespace fastfake
