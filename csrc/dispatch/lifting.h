// `torch.tensor(numbers)` under a mode: torch makes a real tensor, and an operator lifts it to a fake one.
#pragma once

#include "objects/mode_state.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

namespace fastfake {

// Lifts the tensor on top of the stack if it is plain in every way and nobody can know it yet, so that
// converting it takes no description of it: Python only notes it down. Otherwise returns false and leaves
// the stack as it is. `has_rule_of_programs` tells whether a program registered a function in the place of a
// kernel of the operator. Needs the GIL. Calls Python.
bool lift(const c10::OperatorHandle& op, bool has_rule_of_programs, torch::jit::Stack* stack,
          ModeState* mode);

}  // namespace fastfake
