// The catch-all kernel at DispatchKey::Fake: hit, miss, record.
#pragma once

#include "objects/mode_state.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

namespace fastfake {

// Runs the kernel for one call on behalf of `mode`, which is alive during the call. Needs the GIL.
void run_fake_kernel(const c10::OperatorHandle& op, torch::jit::Stack* stack, ModeState* mode);

// Answers a call on fake tensors of `mode` outside of any mode, if the cache can; otherwise leaves the
// stack as it is and returns false. Needs the GIL.
bool answer_from_cache(const c10::OperatorHandle& op, torch::jit::Stack* stack, ModeState* mode);

}  // namespace fastfake
