// Device guards for devices that this build of torch does not know.
//
// Autograd and many operators switch to the device of their argument, fake or not, by asking its type's
// guard. A build of torch without CUDA has none, and code that asks inside a destructor or a noexcept
// function takes the process down. A fake tensor needs no switching, only somebody to answer.
#pragma once

namespace fastfake {

// Gives each accelerator type that has no guard one that does nothing. A guard that torch or a backend
// registers, before or later, takes precedence.
void provide_missing_device_guards();

}  // namespace fastfake
