// What native code knows of the calling thread.
#pragma once

namespace fastfake {

struct ThreadState {
  bool inside_kernel = false;         // see KernelInvocation
  bool forces_modes = false;          // whether is_forced() can be true of any mode
  bool begins_fake_backward = false;  // see FakeBackward
};

inline constinit thread_local ThreadState thread_state;

}  // namespace fastfake
