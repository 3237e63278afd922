// The Python classes that native code stands in for, and what it knows of them.
#pragma once

#include "objects/method_check.h"

#include <torch/csrc/python_headers.h>

namespace fastfake {

// FakeTensor. Its fields are `__slots__`, which sit at fixed offsets in every instance.
struct FakeTensorClass {
  PyTypeObject* type = nullptr;  // null before registration; kept for good afterwards
  Py_ssize_t fake_device = 0;
  Py_ssize_t fake_mode = 0;
  Py_ssize_t constant = 0;
  Py_ssize_t real_tensor = 0;
  Py_ssize_t pytype = 0;
  Py_ssize_t dispatch_keys = 0;
  Py_ssize_t memos = 0;
  MethodCheck dispatch;          // whether a class still has FakeTensor's `__torch_dispatch__`
  PyObject* observer = nullptr;  // called with every tensor that native code makes, unless null

  // Whether `candidate` is this class or derives from it.
  bool is_base_of(PyTypeObject* candidate) const noexcept {
    return candidate == type || (type != nullptr && PyType_IsSubtype(candidate, type) != 0);
  }
};

// FakeTensorMode, which derives from ModeState.
struct FakeModeClass {
  PyTypeObject* type = nullptr;
  MethodCheck dispatch;  // whether a class still has FakeTensorMode's `__torch_dispatch__` and `dispatch`

  bool is_base_of(PyTypeObject* candidate) const noexcept {
    return candidate == type || (type != nullptr && PyType_IsSubtype(candidate, type) != 0);
  }
};

}  // namespace fastfake
