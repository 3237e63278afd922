// Whether any context variable of Python can have changed.
#pragma once

#include <torch/csrc/python_headers.h>

namespace fastfake {

// The object that holds the values of all context variables in the context of the calling thread: CPython
// makes another one for each change, and never changes one. A borrowed reference; null where there is no
// context, or where this build does not know how CPython keeps them. Needs the GIL.
PyObject* values_of_context_variables() noexcept;

}  // namespace fastfake
