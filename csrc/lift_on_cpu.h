// Keeping torch.tensor() on the CPU while some fake mode is active on a machine without an accelerator.
//
// Torch's flag for this belongs to the process, while modes are entered and left by many threads in any
// order. Were each to restore what it found, the first to leave would take the flag from the others, and the
// last would leave it set.
#pragma once

namespace fastfake {

// Each call of the first is undone by one of the second; torch's flag is set in between, and as it was before
// when all are undone. Need the GIL.
void begin_lift_on_cpu();
void end_lift_on_cpu();

}  // namespace fastfake
