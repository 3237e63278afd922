#include "objects/known_storages.h"

#include <c10/util/Exception.h>
#include <torch/csrc/autograd/python_variable.h>

#include <utility>

namespace fastfake {

namespace {

// Null for a tensor that has none, as a sparse one.
const c10::StorageImpl* storage_of(const at::Tensor& tensor) {
  return tensor.defined() && tensor.has_storage() ? tensor.storage().unsafeGetStorageImpl() : nullptr;
}

const at::Tensor& tensor_of(PyObject* object) {
  TORCH_CHECK_TYPE(THPVariable_Check(object), "expected a tensor, not ", Py_TYPE(object)->tp_name);
  return THPVariable_Unpack(object);
}

// Borrowed, and None if it is gone.
PyObject* referent(const PyRef& weak_reference) noexcept {
  return reinterpret_cast<PyWeakReference*>(weak_reference.get())->wr_object;
}

}  // namespace

PyRef KnownStorages::owner_of(PyObject* tensor) const {
  const auto found = known_.find(name_of(storage_of(tensor_of(tensor))));
  return PyRef::borrow(found == known_.end() ? Py_None : referent(found->second.owner));
}

uintptr_t KnownStorages::add(PyObject* tensor, PyObject* owner) {
  const auto& unpacked = tensor_of(tensor);
  const auto* storage = storage_of(unpacked);
  if (storage == nullptr) return 0;
  auto reference = PyRef::steal(PyWeakref_NewRef(owner, nullptr));
  const auto found = known_.find(name_of(storage));
  if (found == known_.end()) {
    known_.emplace(name_of(storage), Known{.owner = std::move(reference), .storage = unpacked.storage()});
  } else if (referent(found->second.owner) == Py_None) {
    found->second.owner = std::move(reference);
  } else if (referent(found->second.owner) != owner) {
    return 0;
  }
  return name_of(storage);
}

void KnownStorages::remove(uintptr_t storage) {
  const auto found = known_.find(storage);
  if (found == known_.end()) return;
  // Both die when the table is whole again.
  const auto last = std::move(found->second);
  known_.erase(found);
}

}  // namespace fastfake
