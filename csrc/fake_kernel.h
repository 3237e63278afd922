// The catch-all kernel at DispatchKey::Fake: hit, miss, record.
#pragma once

#include "fake_mode.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

namespace fastfake {

// How a call that is not answered from the cache reaches Python: torch's own dispatch of the interpreter.
using PythonDispatch = void (*)(const c10::OperatorHandle& op, torch::jit::Stack* stack);

// Sends one call to DispatchKey::Fake on behalf of `mode`, which is alive during the call. Needs the GIL.
void dispatch_to_fake_key(const c10::OperatorHandle& op, torch::jit::Stack* stack, ModeState* mode);

// Answers a call on fake tensors of `mode` outside of any mode, if the cache can; otherwise leaves the
// stack as it is and returns false. Needs the GIL.
bool answer_from_cache(const c10::OperatorHandle& op, torch::jit::Stack* stack, ModeState* mode);

// Tells the kernel where to send misses. To be called before the first dispatch.
void set_python_dispatch(PythonDispatch dispatch);

// Tells the kernel what compares a cached answer with a computed one, for modes with crosscheck:
// a Python callable `(name, arguments, cached, computed)` that raises when they differ.
void set_crosscheck(PyObject* callable);

}  // namespace fastfake
