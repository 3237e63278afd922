// The operators of torch.distributed: collectives, and the copies around them.
//
// They stand outside of torch's built-in namespaces, as custom operators do, and torch gives their fake
// results by kernels written in Python. Those depend on the tensors, numbers and texts among the arguments
// alone: not on the objects, which are the group and the reduction. So calls may be cached as long as the
// kernel is torch's. A program may have put one of its own in that place, which counts what would be sent,
// say.
#pragma once

#include "cache/operator_facts.h"

#include <ATen/core/ivalue.h>
#include <torch/csrc/python_headers.h>

namespace fastfake {

// Whether `op` is one of them and a kernel of torch gives its fake results. May call Python. Needs the GIL.
bool is_torchs_collective(const OperatorFacts& op);

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
