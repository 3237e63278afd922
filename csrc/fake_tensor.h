// The fake tensor as C++ sees it.
//
// A fake tensor is a plain TensorImpl on meta storage that carries the backend keys of the device it
// imitates and the Python keys, with a Python object of class FakeTensor whose fields live in
// `__slots__`. Slots sit at fixed offsets, so C++ reads and writes them without a dictionary. The
// Python object is made together with the TensorImpl and lives as long: torch preserves it.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <torch/csrc/python_headers.h>

namespace fastfake {

// Tells C++ which Python class is FakeTensor, reads the offsets of its slots and gives it the attribute
// `device`. To be called once, when the class exists. Throws if a slot is missing.
void register_fake_tensor_class(PyTypeObject* type);

// Has `callable` called with every fake tensor that C++ makes from now on; null or None ends that.
void observe_new_tensors(PyObject* callable);

// The registered class; null before registration. A borrowed reference.
PyTypeObject* fake_tensor_class() noexcept;

// A live fake tensor with all its slots filled. Does not own the object.
class FakeTensorView {
 public:
  // The view of `object`, or a null view where that is not a complete fake tensor.
  static FakeTensorView of(PyObject* object) noexcept;
  static FakeTensorView of(const c10::TensorImpl* impl) noexcept;

  explicit operator bool() const noexcept { return object_ != nullptr; }
  PyObject* object() const noexcept { return object_; }
  // The class as a cached result must have it: FakeTensor itself, not one derived from it.
  bool is_exactly_fake_tensor() const noexcept;

  PyObject* mode() const noexcept;
  c10::Device device() const noexcept;
  // Nothing but shape and device: no known constant, no real tensor, no recorded type or keys.
  bool is_plain() const noexcept;
  bool has_constant() const noexcept;

 private:
  explicit FakeTensorView(PyObject* object) noexcept : object_(object) {}
  PyObject* object_;
};

// The one Python object for a device. Never freed, so that `device` can be answered without the GIL.
PyObject* device_object(c10::Device device);

// Gives `impl`, which has the right keys already, its FakeTensor object. Needs the GIL.
at::Tensor adopt_as_fake(c10::intrusive_ptr<c10::TensorImpl> impl, PyObject* mode, PyObject* device);

}  // namespace fastfake
