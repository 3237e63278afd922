// torch's settings on which the results of operators depend, besides those of the tensors and the mode.
#pragma once

#include <torch/csrc/python_headers.h>

#include <cstdint>

namespace fastfake {

// Names the context variables that hold the settings made in Python. To be called once.
void watch_settings(PyObject* context_variables);

// A number for the present values of the watched settings: the same for equal values. Needs the GIL.
uint64_t settings_number();

// A number for a hashable Python value, never 0: the same for equal values while the process runs. The table
// is never emptied; it is for values of which there are a handful. Needs the GIL.
int64_t number_of(PyObject* value);

// The backends of scaled_dot_product_attention that are enabled, and the order in which they are tried.
uint64_t attention_backend_bits();

}  // namespace fastfake
