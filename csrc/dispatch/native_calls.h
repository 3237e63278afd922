// Calls that native code answers without looking anything up, because all that is left of them, once Python
// has asked what there is to ask, is the operator itself: on values that are known, or on nothing.
#pragma once

#include "cache/operator_facts.h"
#include "objects/mode_state.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

namespace fastfake {

// Runs the call if it is one of
// - a mark for the profiler;
// - `item()` of a tensor with a known value;
// - an operator that writes to a tensor with a known value, and returns it, where all values are known;
// - the lifting of a tensor that `torch.tensor` just made.
// Otherwise returns false and leaves everything as it is. Needs the GIL. Calls Python.
bool run_natively(const c10::OperatorHandle& op, const OperatorFacts& facts, torch::jit::Stack* stack,
                  ModeState* mode);

}  // namespace fastfake
