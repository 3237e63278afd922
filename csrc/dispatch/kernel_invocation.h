// "In kernel invocation": the state in which fake tensors call themselves meta tensors.
//
// A fake tensor answers `device` with the device that it imitates, except while one of torch's own
// kernels computes its metadata: that kernel must see a meta tensor and allocate meta outputs. The
// state belongs to the thread, so that threads that share a mode do not disturb one another. A thread can
// also force it upon the tensors of a single mode, by assigning True to `mode.in_kernel_invocation`.
#pragma once

#include "dispatch/thread_state.h"

#include <c10/macros/Macros.h>
#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/python_headers.h>

#include <atomic>

namespace fastfake {

struct ModeState;

// Stands for a mode and outlives it, so that threads that remember a mode need not keep it alive.
struct ModeIdentity : c10::intrusive_ptr_target {
  std::atomic<const void*> mode;  // null once the mode is gone
};

// Whether the calling thread forced the state upon the tensors of `mode`, which is only compared. Needs no
// GIL.
bool is_forced(const void* mode) noexcept;

// Whether the calling thread is inside a kernel invocation for tensors of `mode`, which is only compared.
// Needs no GIL.
inline bool in_kernel_invocation(const void* mode) noexcept {
  return thread_state.inside_kernel || (C10_UNLIKELY(thread_state.forces_modes) && is_forced(mode));
}

// What an assignment to `mode.in_kernel_invocation` does. True lasts until False is assigned or the mode
// dies. False also ends, for this thread, the KernelInvocation that it is in. Needs the GIL.
void force_kernel_invocation(ModeState& mode, bool inside);

// A context in which calls by this thread reach meta kernels and no Python dispatch. It may be entered
// several times, by several threads too. Needs the GIL.
class KernelInvocation {
 public:
  KernelInvocation() = default;
  ~KernelInvocation();  // leaves what this thread did not
  KernelInvocation(const KernelInvocation&) = delete;
  KernelInvocation(KernelInvocation&&) = delete;
  KernelInvocation& operator=(const KernelInvocation&) = delete;
  KernelInvocation& operator=(KernelInvocation&&) = delete;

  void enter();
  // Undoes the latest entry of this thread. Throws without one.
  void leave() const;
};

}  // namespace fastfake
