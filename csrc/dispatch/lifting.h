// `torch.tensor(numbers)` under a mode: torch makes a real tensor, and an operator lifts it to a fake one.
#pragma once

#include "objects/mode_state.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

namespace fastfake {

// Lifts the tensor on top of the stack if it is plain in every way and nobody can know it yet, so that
// converting it takes no description of it: Python only notes it down. Otherwise returns false and leaves
// the stack as it is. Needs the GIL. Calls Python.
bool lift(const c10::OperatorHandle& op, torch::jit::Stack* stack, ModeState* mode);

}  // namespace fastfake
