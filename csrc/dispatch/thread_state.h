// What native code knows of the calling thread.
#pragma once

namespace fastfake {

struct ThreadState {
  bool inside_kernel = false;  // see KernelInvocation
  bool declines = false;       // see DecliningMode
  bool forces_modes = false;   // whether is_forced() can be true of any mode
};

inline constinit thread_local ThreadState thread_state;

}  // namespace fastfake
