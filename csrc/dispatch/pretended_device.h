// The CUDA devices that `fastfake.pretend` claims there are. Python answers what programs ask torch.cuda;
// here is what torch's C++ code finds out by itself.
//
// While there is a claim, CUDA is the accelerator that torch was built for, if it was built for none, as for
// `torch.device(3)`; its device guard is ours; and attention on CUDA tensors is computed by the operator that
// torch would choose on such a device.
#pragma once

#include <atomic>

namespace fastfake {

// The claim. `active` needs no GIL, the rest is written before it and stays while there is a claim.
struct PretendedDevice {
  std::atomic<bool> active = false;
  int major = 0;
  int minor = 0;
};

// Begins a claim of devices with the given compute capability. Needs the GIL. There must be none, and torch
// must have no device of CUDA.
void pretend_cuda(int major, int minor);

// Ends the claim.
void stop_pretending();

}  // namespace fastfake
