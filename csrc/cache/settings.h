// torch's settings on which the results of operators depend, besides those of the tensors and the mode.
#pragma once

#include "objects/python_guards.h"

#include <torch/csrc/python_headers.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace fastfake {

// The settings made in Python, held by context variables. The variables and their values when last read are
// kept alive; the number belongs to these values. Values seldom change, so that reading them is comparing
// pointers.
class PythonSettings {
 public:
  // Names the variables, a tuple of them. To be called once.
  void watch(PyObject* context_variables);

  // The number of values of a kind that cannot be compared; calls under them are not cached.
  static constexpr uint64_t not_comparable = 0;

  // A number for the present values: the same for equal values. Needs the GIL.
  uint64_t number();

 private:
  static constexpr size_t most = 4;

  PyRef present_value(size_t i) const;
  uint64_t renumber();

  size_t count_ = 0;
  std::array<PyObject*, most> variables_{};
  std::array<PyObject*, most> values_{};
  uint64_t number_ = 0;
};

// The settings that kernels, decompositions and meta functions look at whatever the operator: grad and
// inference mode, determinism, backends, the Python dispatcher, default dtype and device.
uint64_t thread_settings();

// The backends of scaled_dot_product_attention that are enabled, and the order in which they are tried.
uint64_t attention_settings();

}  // namespace fastfake
