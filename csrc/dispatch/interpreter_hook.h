// The hook through which dispatches to Python reach native code.
//
// Every mode and every tensor subclass reaches Python through one c10::impl::PyInterpreter, whose virtual
// table is a plain pointer. While the hook is installed that pointer leads to a decorator: calls that
// belong to a fake mode of ours turn to DispatchKey::Fake with the operator and the boxed stack in hand,
// before anything became a Python object; everything else goes to torch's own table unchanged.
//
// Alternatives: a kernel at DispatchKey::Python would replace torch's fallback for all subclasses and
// modes of the process; the Fake key alone is not reached, since the wheel sets it on no tensor that
// Python makes.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

namespace fastfake {

// Puts the hook in place, takes it away, or tells which. Idempotent. Need the GIL.
void install_interpreter_hook();
void remove_interpreter_hook();
bool interpreter_hook_installed();

// torch's own dispatch of the interpreter: how a call that is not answered from the cache reaches Python.
void dispatch_by_torch(const c10::OperatorHandle& op, torch::jit::Stack* stack);

}  // namespace fastfake
