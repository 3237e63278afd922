// What native code knows of the calling thread.
#pragma once

namespace fastfake {

struct ModeState;

struct ThreadState {
  bool inside_kernel = false;             // see KernelInvocation
  ModeState* dispatching_mode = nullptr;  // for which the call now on its way to the Fake key was sent there
};

inline constinit thread_local ThreadState thread_state;

}  // namespace fastfake
