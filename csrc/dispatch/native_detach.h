// `detach`, which autograd asks for every tensor that it saves.
#pragma once

#include <c10/core/TensorImpl.h>
#include <torch/csrc/python_headers.h>

namespace fastfake {

// A detached fake tensor is an alias with the same metadata. Returns null where torch's way could do more
// than that: another mode listens, the value is known, the tensor is of a special kind, or inference mode
// changes what a view is. Needs the GIL.
c10::intrusive_ptr<c10::TensorImpl> detach_fake(const c10::TensorImpl& self);

// An alias of the Python tensor `tensor`, whatever mode is active, or None where torch's way could do more.
// What tracers ask for each tensor that they note down. A new reference. Needs the GIL.
PyObject* alias_of_fake(PyObject* tensor);

}  // namespace fastfake
