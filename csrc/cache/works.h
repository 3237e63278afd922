// What programs wait for collectives with.
#pragma once

#include <ATen/core/ivalue.h>
#include <torch/csrc/python_headers.h>

namespace fastfake {

// The GIL guards it.
class Works {
 public:
  // `new_work` makes the object by which a program waits for a collective under a fake mode.
  void register_python(PyObject* new_work);

  // A work as torch's kernels make it, with a number of its own. Calls Python.
  c10::IValue make() const;

 private:
  PyObject* new_work_ = nullptr;
};

}  // namespace fastfake
