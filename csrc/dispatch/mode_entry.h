// Entering and leaving a FakeTensorMode.
//
// Python may raise KeyboardInterrupt wherever it runs an instruction, before the first one of a function too.
// A mode that stays entered because its `__exit__` was interrupted ends the process: torch's dispatcher takes
// the mode off its stack for a call and finds its place occupied when it puts it back, in a destructor. So
// these are C functions, during which Python interrupts nothing: each does all of its work or, where it
// fails, none.
#pragma once

#include <torch/csrc/python_headers.h>

#include <cstddef>

namespace fastfake {

// One of torch's flags that tell of modes which are entered, in the process. The GIL guards it.
struct ModeFlag {
  size_t claims = 0;    // of modes that are entered, on all threads; see ThreadState for those of one
  bool before = false;  // what it was without any
};

// In the child of a fork: the modes that other threads were in are left.
void forget_entries_of_other_threads();

// The methods `__enter__` and `__exit__` of ModeState, and a last one without a name.
PyMethodDef* mode_entry_methods() noexcept;

}  // namespace fastfake
