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

// Whether the table that torch has now is as large as the one that the hook was compiled to stand in for.
bool interpreter_table_has_as_many_methods_as_the_hook();

// Puts the hook on top of what is there, unless dispatches reach it already. Needs the GIL.
void install_interpreter_hook();

// Takes the hook away if it is on top. Where somebody else's decorator came on top since, it stays: whatever
// is not of a fake mode of ours goes through it unchanged. Needs the GIL.
void remove_interpreter_hook();

// Whether dispatches reach the hook. Needs the GIL.
bool interpreter_hook_installed();

// torch's own dispatch of the interpreter: how a call that is not answered from the cache reaches Python.
void dispatch_by_torch(const c10::OperatorHandle& op, torch::jit::Stack* stack);

}  // namespace fastfake
