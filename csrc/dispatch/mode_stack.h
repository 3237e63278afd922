// torch's stack of modes, as far as native code asks for it.
#pragma once

#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/PyInterpreter.h>
#include <torch/csrc/python_headers.h>

#include <array>
#include <memory>
#include <optional>
#include <ranges>
#include <vector>

namespace fastfake {

// The members of torch's record of a thread's modes. torch's functions tell the mode at a position, counted
// from below, which takes three look-ups of the thread's record for the mode on top. The members are private;
// the arguments of an explicit instantiation may name them nonetheless.
struct ModeStack {
  using Torch = c10::impl::TorchDispatchModeTLS;
  using Mode = std::shared_ptr<c10::impl::PyObject_TorchDispatchMode>;
  using OfUsers = std::vector<Mode>;
  using OfTorch =
      std::array<std::optional<Mode>, static_cast<size_t>(c10::impl::TorchDispatchModeKey::NUM_MODE_KEYS)>;

  friend OfUsers Torch::* modes_of_users(ModeStack);
  friend OfTorch Torch::* modes_of_torch(ModeStack);
};

template <ModeStack::OfUsers ModeStack::Torch::* users, ModeStack::OfTorch ModeStack::Torch::* torchs>
struct PrivateMembers {
  friend ModeStack::OfUsers ModeStack::Torch::* modes_of_users(ModeStack /*tag*/) { return users; }
  friend ModeStack::OfTorch ModeStack::Torch::* modes_of_torch(ModeStack /*tag*/) { return torchs; }
};
template struct PrivateMembers<&ModeStack::Torch::stack_, &ModeStack::Torch::infra_modes_>;

// The mode on top of this thread's stack, which is the one that a dispatch goes to; null without modes.
// A borrowed reference that lives as long as the mode stays on the stack.
inline PyObject* top_mode() {
  const auto& state = ModeStack::Torch::get_state();
  const auto& of_users = state.*modes_of_users(ModeStack());
  if (!of_users.empty()) return of_users.back()->ptr(getPyInterpreter());
  // Those that torch has a place for each are below all others.
  const auto& of_torch = state.*modes_of_torch(ModeStack());
  for (const auto& mode : std::views::reverse(of_torch)) {
    if (mode.has_value()) return (*mode)->ptr(getPyInterpreter());
  }
  return nullptr;
}

// Whether a proxy mode is active on this thread, one that traces what is dispatched.
inline bool is_tracing() {
  constexpr auto proxy = static_cast<size_t>(c10::impl::TorchDispatchModeKey::PROXY);
  return (ModeStack::Torch::get_state().*modes_of_torch(ModeStack()))[proxy].has_value();
}

}  // namespace fastfake
