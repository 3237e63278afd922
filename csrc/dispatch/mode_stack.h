// torch's stack of modes, as far as native code asks for it.
#pragma once

#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/PyInterpreter.h>
#include <torch/csrc/python_headers.h>

namespace fastfake {

// The mode on top of this thread's stack, which is the one that a dispatch goes to; null without modes.
// A borrowed reference that lives as long as the mode stays on the stack.
inline PyObject* top_mode() {
  using c10::impl::TorchDispatchModeTLS;
  const auto depth = TorchDispatchModeTLS::stack_len();
  return depth == 0 ? nullptr : TorchDispatchModeTLS::get_stack_at(depth - 1)->ptr(getPyInterpreter());
}

}  // namespace fastfake
