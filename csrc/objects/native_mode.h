// Which objects are modes whose calls native code may answer.
#pragma once

#include "objects/mode_state.h"

#include <torch/csrc/python_headers.h>

namespace fastfake {

// Tells C++ which Python class is FakeTensorMode. To be called once, when the class exists.
void register_fake_mode_class(PyTypeObject* type);

// The state of `mode` if it is a fake mode that dispatches as FakeTensorMode does; null for any other
// object, and for modes that have another `__torch_dispatch__` or `dispatch`, by their class or by
// themselves. Needs the GIL.
ModeState* native_mode(PyObject* mode) noexcept;

}  // namespace fastfake
