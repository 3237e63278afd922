// The fake tensor as C++ sees it.
//
// A fake tensor is a plain TensorImpl on meta storage that carries the backend keys of the device it
// imitates and the Python keys, with a Python object of class FakeTensor whose fields live in
// `__slots__`. Slots sit at fixed offsets, so C++ reads them without a dictionary. The Python object is
// made together with the TensorImpl and lives as long: torch preserves it.
#pragma once

#include "process_state.h"

#include <c10/core/Device.h>
#include <c10/core/TensorImpl.h>
#include <torch/csrc/Device.h>
#include <torch/csrc/python_headers.h>

namespace fastfake {

// Tells C++ which Python class is FakeTensor, reads the offsets of its slots and gives it the attribute
// `device`. To be called once, when the class exists. Throws if a slot is missing.
void register_fake_tensor_class(PyTypeObject* type);

// Whether `type`, a class of fake tensors, dispatches as FakeTensor does outside a mode. Needs the GIL.
inline bool dispatches_natively(PyTypeObject* type) noexcept {
  return process().fake_tensor.dispatch.holds_for(type);
}

// A live fake tensor with all its slots filled. Does not own the object.
class FakeTensorView {
 public:
  // The view of `object`, or a null view where that is not a complete fake tensor.
  static FakeTensorView of(PyObject* object) noexcept {
    if (object == nullptr || !process().fake_tensor.is_base_of(Py_TYPE(object)))
      return FakeTensorView(nullptr);
    // A class may be instantiated around its constructor, which leaves slots empty or, by assignment,
    // filled with anything. The slots that C++ interprets are checked; the rest is only compared.
    const FakeTensorView view(object);
    PyObject* device = view.slot(process().fake_tensor.fake_device);
    if (device == nullptr || !THPDevice_Check(device) || view.mode() == nullptr) {
      return FakeTensorView(nullptr);
    }
    return view;
  }
  static FakeTensorView of(const c10::TensorImpl* impl) noexcept {
    return of(impl->pyobj_slot()->load_pyobj());
  }

  explicit operator bool() const noexcept { return object_ != nullptr; }
  PyObject* object() const noexcept { return object_; }
  // The class as a cached result must have it: FakeTensor itself, not one derived from it.
  bool is_exactly_fake_tensor() const noexcept { return Py_TYPE(object_) == process().fake_tensor.type; }

  PyObject* mode() const noexcept { return slot(process().fake_tensor.fake_mode); }
  // The object in the slot. All code of this project puts interned ones there, which are never freed.
  PyObject* device_object() const noexcept { return slot(process().fake_tensor.fake_device); }
  c10::Device device() const noexcept { return reinterpret_cast<THPDevice*>(device_object())->device; }
  bool has_constant() const noexcept { return constant() != Py_None; }
  // A real tensor with the value, where it is known.
  PyObject* constant() const noexcept { return slot(process().fake_tensor.constant); }
  // Stands for a tensor whose dispatch keys are not those of its metadata, as one in MKLDNN's layout does.
  bool has_dispatch_keys() const noexcept { return slot(process().fake_tensor.dispatch_keys) != Py_None; }
  // Nothing but shape and device: no known constant, no real tensor, no recorded type or keys.
  bool is_plain() const noexcept {
    const auto& layout = process().fake_tensor;
    return slot(layout.constant) == Py_None && slot(layout.real_tensor) == Py_None &&
           slot(layout.pytype) == Py_None && !has_dispatch_keys();
  }

 private:
  explicit FakeTensorView(PyObject* object) noexcept : object_(object) {}
  PyObject* slot(Py_ssize_t offset) const noexcept {
    return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object_) + offset);
  }

  PyObject* object_;
};

// Whether the tensor's object is of a class of fake tensors, complete or not.
inline bool is_of_fake_class(const c10::TensorImpl& impl) noexcept {
  PyObject* object = impl.pyobj_slot()->load_pyobj();
  return object != nullptr && process().fake_tensor.is_base_of(Py_TYPE(object));
}

// Whether the tensor is of a class with a `__torch_dispatch__` of its own that is no class of fake tensors.
inline bool is_of_another_dispatching_class(const c10::TensorImpl& impl) noexcept {
  if (!impl.key_set().has(c10::DispatchKey::Python)) return false;
  PyObject* object = impl.pyobj_slot()->load_pyobj();
  return object != nullptr && !process().fake_tensor.is_base_of(Py_TYPE(object));
}

}  // namespace fastfake
