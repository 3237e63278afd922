// Calls that a mode leaves to another class among the arguments, which is asked first: each on DTensors is
// one.
//
// Before that class torch asks the mode, whose `__torch_dispatch__` has to say NotImplemented. In its place
// in the class stands a native callable, which says so for a call that native code knows to be one, and
// passes others on.
#pragma once

#include "cache/operator_facts.h"

#include <ATen/core/ivalue.h>
#include <c10/util/ArrayRef.h>
#include <torch/csrc/python_headers.h>

namespace fastfake {

// Whether a tensor among the arguments, in a list too, is of another class with a `__torch_dispatch__`.
bool is_left_to_a_class(c10::ArrayRef<c10::IValue> arguments);

// While one exists, the mode that torch asks next on this thread declines.
class DecliningMode {
 public:
  explicit DecliningMode(const OperatorFacts& op);
  ~DecliningMode();
  DecliningMode(const DecliningMode&) = delete;
  DecliningMode(DecliningMode&&) = delete;
  DecliningMode& operator=(const DecliningMode&) = delete;
  DecliningMode& operator=(DecliningMode&&) = delete;

 private:
  bool before_;
};

// What stands for the method `function` in the class of modes. A new reference; throws what Python raises.
PyObject* declining_method(PyObject* function);

}  // namespace fastfake
