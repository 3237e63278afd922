// "In kernel invocation": the state in which fake tensors call themselves meta tensors.
//
// A fake tensor answers `device` with the device that it imitates, except while one of torch's own
// kernels computes its metadata: that kernel must see a meta tensor and allocate meta outputs. The
// state belongs to the thread, not to a mode, so that threads that share a mode do not disturb one
// another.
#pragma once

#include "dispatch/thread_state.h"

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/python_headers.h>

namespace fastfake {

// Whether the calling thread is inside a kernel invocation. Needs no GIL.
inline bool in_kernel_invocation() noexcept { return thread_state.inside_kernel; }

// Overrides the answer of in_kernel_invocation() for this thread; what an assignment to
// `mode.in_kernel_invocation` does.
inline void force_kernel_invocation(bool inside) noexcept { thread_state.inside_kernel = inside; }

// While alive, calls by this thread reach meta kernels and no Python dispatch.
class KernelInvocation {
 public:
  KernelInvocation();
  ~KernelInvocation();
  KernelInvocation(const KernelInvocation&) = delete;
  KernelInvocation(KernelInvocation&&) = delete;
  KernelInvocation& operator=(const KernelInvocation&) = delete;
  KernelInvocation& operator=(KernelInvocation&&) = delete;

 private:
  c10::impl::LocalDispatchKeySet saved_keys_;
  bool saved_inside_;
};

}  // namespace fastfake
