// What native code knows of the calling thread.
#pragma once

namespace fastfake {

struct ThreadState {
  bool inside_kernel = false;         // see KernelInvocation
  bool forces_modes = false;          // whether is_forced() can be true of any mode
  bool begins_fake_backward = false;  // see FakeBackward
  signed char pretended_index = 0;    // of the current device, see PretendedDevice
};

inline constinit thread_local ThreadState thread_state;

}  // namespace fastfake
