// Making fake tensors without Python code.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Storage.h>
#include <c10/core/SymInt.h>
#include <c10/core/TensorImpl.h>
#include <torch/csrc/python_headers.h>

namespace fastfake {

// Has `callable` called with every fake tensor that C++ makes from now on; None ends that.
void observe_new_tensors(PyObject* callable);

// A storage without data of `bytes` bytes, as kernels for meta tensors make it.
c10::Storage fresh_storage(c10::SymInt bytes, bool unsafe_data_ptr);

// A copy of `prototype` in all metadata and dispatch keys, on `storage`, with a version counter and no
// autograd history of its own, without a Python object.
c10::intrusive_ptr<c10::TensorImpl> clone_on_storage(const c10::TensorImpl& prototype, c10::Storage storage);

// Gives `impl`, which has the right keys already, its FakeTensor object. `device` is interned. Needs the GIL.
at::Tensor adopt_as_fake(c10::intrusive_ptr<c10::TensorImpl> impl, PyObject* mode, PyObject* device);

// The fake tensor on the CPU of a real one there, which is plain in every way: a FakeTensor of `mode` with a
// storage of its own that ends where the tensor does. Needs the GIL.
at::Tensor fake_of_plain(const at::Tensor& real, PyObject* mode, bool unsafe_data_ptr);

}  // namespace fastfake
