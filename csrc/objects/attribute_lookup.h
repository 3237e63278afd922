// Faster answers to attribute look-ups by C string.
#pragma once

#include <torch/csrc/python_headers.h>

namespace fastfake {

// torch asks each tensor of a derived class, with a C string, for `__torch_function__`, and makes a Python
// string for it each time, unless the class has a `tp_getattr`. Gives `type` one, which takes that name from
// a string made once and otherwise does what CPython does: the answer comes from `tp_getattro`, whatever
// attributes and overrides there are. Derived classes inherit it. Needs the GIL.
void look_up_c_strings_fast(PyTypeObject* type);

}  // namespace fastfake
