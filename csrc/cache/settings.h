// torch's settings on which the results of operators depend, besides those of the tensors and the mode.
#pragma once

#include "cache/context_variables.h"
#include "objects/python_guards.h"

#include <torch/csrc/python_headers.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace fastfake {

// The settings made in Python, held by context variables. The variables and their values when last read are
// kept alive; the number belongs to these values. Values seldom change, so that reading them is comparing
// pointers: one where no context variable of the program changed, otherwise one for each setting.
class PythonSettings {
 public:
  // Names the variables, a tuple of them. To be called once.
  void watch(PyObject* context_variables);

  // The number of values of a kind that cannot be compared; calls under them are not cached.
  static constexpr uint64_t not_comparable = 0;

  // A number for the present values: the same for equal values. Needs the GIL.
  uint64_t number() {
    if (C10_LIKELY(read_from_ != nullptr && refers_to_present_values(read_from_))) return number_;
    return look_up();
  }

 private:
  static constexpr size_t most = 5;

  // Whether a weak reference is to what holds the values of all context variables now.
  static bool refers_to_present_values(PyObject* reference) noexcept {
    return reinterpret_cast<PyWeakReference*>(reference)->wr_object == values_of_context_variables();
  }

  uint64_t look_up();
  bool values_are_present() const;
  uint64_t renumber(PyRef reference);

  size_t count_ = 0;
  std::array<PyObject*, most> variables_{};
  std::array<PyObject*, most> values_{};
  uint64_t number_ = 0;
  // What held the values when they were read; null if unknown. A weak reference, because it holds the values
  // of the program's other variables as well; it refers to None once that is gone.
  PyObject* read_from_ = nullptr;
};

// The settings that kernels, decompositions and meta functions look at whatever the operator: grad and
// inference mode, determinism, backends, the Python dispatcher, default dtype and device.
uint64_t thread_settings();

// The backends of scaled_dot_product_attention that are enabled, and the order in which they are tried.
uint64_t attention_settings();

}  // namespace fastfake
