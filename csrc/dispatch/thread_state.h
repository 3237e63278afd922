// What native code knows of the calling thread.
#pragma once

namespace fastfake {

struct ThreadState {
  bool inside_kernel = false;  // see KernelInvocation
};

inline constinit thread_local ThreadState thread_state;

}  // namespace fastfake
