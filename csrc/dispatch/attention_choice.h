// Which operator computes `scaled_dot_product_attention` of CUDA tensors, on a device that is only claimed.
//
// torch's own choice asks the driver for the device's properties; without one it is the slow composite. This
// one goes by the capability that is claimed. It has torch's rules for dense tensors, with the user's
// settings of the backends and their order; cuDNN's kernels are left out, since whether torch takes them
// depends on the version of a library that is not there, and so are rules about single cards.
#pragma once

namespace fastfake {

// Lets torch ask this choice. Needs the GIL.
void choose_attention_on_cuda();

// Lets it be as it was. In a build of torch for CUDA the choice stays, and is then the one of a machine
// without.
void leave_attention_on_cuda();

}  // namespace fastfake
