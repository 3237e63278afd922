// Whether operations on symbolic numbers are being traced.
#pragma once

#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/python_headers.h>

namespace fastfake {

// Whether a proxy mode is active on this thread, which has to see how each number is computed from others.
// `pre_dispatch_modes` is torch's list of the modes that run before dispatch, the proxy mode first.
inline bool operations_are_traced(PyObject* pre_dispatch_modes) {
  using c10::impl::TorchDispatchModeKey;
  return PyList_GET_ITEM(pre_dispatch_modes, 0) != Py_None ||
         c10::impl::TorchDispatchModeTLS::get_mode(TorchDispatchModeKey::PROXY).has_value();
}

}  // namespace fastfake
