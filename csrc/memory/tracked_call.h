// A call that is told to the memory tracker that is on: what it made, and the sizes that it changed.
//
// Calls that come while a call is computed are a kernel's own business, whose results are what counts: the
// next time, none of them is made. Calls of another class's that a mode declined are no kernel's
// (OutsideOfCalls).
#pragma once

#include "cache/operator_facts.h"
#include "dispatch/thread_state.h"
#include "objects/mode_state.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <c10/core/Storage.h>
#include <c10/util/SmallVector.h>

#include <optional>
#include <utility>

namespace fastfake {

// While one exists, this thread is inside of a call that is told, or is not.
template <bool inside>
class CallSide {
 public:
  CallSide() : before_(std::exchange(thread_state.inside_tracked_call, inside)) {}
  ~CallSide() { thread_state.inside_tracked_call = before_; }
  CallSide(const CallSide&) = delete;
  CallSide(CallSide&&) = delete;
  CallSide& operator=(const CallSide&) = delete;
  CallSide& operator=(CallSide&&) = delete;

 private:
  bool before_;
};
using InsideOfCall = CallSide<true>;
using OutsideOfCalls = CallSide<false>;

// Exists while the call is under way. Needs the GIL.
class TrackedCall {
 public:
  // The arguments are the last ones on `stack`.
  TrackedCall(const c10::OperatorHandle& op, const torch::jit::Stack& stack, ModeState* mode);

  // The results are in the arguments' place.
  void finish(const torch::jit::Stack& stack);

 private:
  const OperatorFacts& facts_;
  std::optional<InsideOfCall> active_;
  bool gives_argument_back_ = false;
  size_t below_;
  // What the call may write to, and so resize. References, since it may be the last to have them.
  c10::SmallVector<std::pair<c10::Storage, c10::Device>, 2> written_;
};

}  // namespace fastfake
