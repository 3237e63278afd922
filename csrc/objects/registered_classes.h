// The Python classes that native code stands in for, and what it knows of them.
#pragma once

#include "objects/method_check.h"

#include <torch/csrc/python_headers.h>

namespace fastfake {

struct RegisteredClass {
  PyTypeObject* type = nullptr;  // null before registration; kept for good afterwards
  MethodCheck dispatch;          // whether a class still has the methods of this one that dispatch calls

  // Whether `candidate` is this class or derives from it.
  bool is_base_of(PyTypeObject* candidate) const noexcept {
    return candidate == type || (type != nullptr && PyType_IsSubtype(candidate, type) != 0);
  }
};

// FakeTensor, which dispatches with `__torch_dispatch__`. Its fields are `__slots__`, which sit at fixed
// offsets in every instance.
struct FakeTensorClass : RegisteredClass {
  Py_ssize_t fake_device = 0;
  Py_ssize_t fake_mode = 0;
  Py_ssize_t constant = 0;
  Py_ssize_t real_tensor = 0;
  Py_ssize_t pytype = 0;
  Py_ssize_t dispatch_keys = 0;
  Py_ssize_t memos = 0;
  PyObject* observer = nullptr;  // called with every tensor that native code makes, unless null
};

// FakeTensorMode, which derives from ModeState and dispatches with `__torch_dispatch__` and `dispatch`.
struct FakeModeClass : RegisteredClass {};

}  // namespace fastfake
