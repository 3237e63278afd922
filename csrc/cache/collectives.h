// The operators of torch.distributed: collectives, and the copies around them.
//
// They stand outside of torch's built-in namespaces, as custom operators do, and torch gives their fake results by
// kernels written in Python. Those depend on the tensors, numbers and texts among the arguments alone: not on the
// objects, which are the group and the reduction. So calls may be cached as long as the kernel is torch's. A program
// may have put one of its own in that place, which counts what would be sent, say.
#pragma once

#include "cache/operator_facts.h"

#include <ATen/core/ivalue.h>
#include <c10/util/flat_hash_map.h>
#include <torch/csrc/python_headers.h>

#include <cstdint>

namespace fastfake {

// The GIL guards it.
class Collectives {
 public:
  // `has_torchs_kernel` takes the name of an operator and tells whether a kernel of torch gives its fake results.
  // `new_work` makes the object by which a program waits for a collective under a fake mode.
  void register_python(PyObject* has_torchs_kernel, PyObject* new_work);

  // Whether `op` is one of them and a kernel of torch gives its fake results. Calls Python the first time, and
  // when something was registered since.
  bool have_torchs_kernel(const OperatorFacts& op);

  // A work as torch's kernels make it, with a number of its own. Calls Python.
  c10::IValue new_work() const;

 private:
  bool ask_python(const OperatorFacts& op) const;

  PyObject* has_torchs_kernel_ = nullptr;
  PyObject* new_work_ = nullptr;
  uint64_t registrations_ = 0;
  ska::flat_hash_map<uint64_t, bool> known_;  // by the id of the operator, as of registrations_
};

}  // namespace fastfake
