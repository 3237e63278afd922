// Contexts in which the calling thread is in another state.
//
// As with modes (see mode_entry.h), they are entered and left by C functions: an interrupt may end a Python
// one, or a generator, when the state is changed and nothing yet says that it has to be put back.
#pragma once

#include "dispatch/thread_state.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/python_headers.h>
#include <torch/csrc/utils/disable_torch_function.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace fastfake {

// The fake mode of the thread is inactive.
class WithoutFakeMode {
 public:
  WithoutFakeMode() : active_(c10::impl::TorchDispatchModeTLS::unset_mode(key)) {}
  // Does nothing where somebody left another one active.
  ~WithoutFakeMode() {
    if (!c10::impl::TorchDispatchModeTLS::get_mode(key)) restore();
  }
  WithoutFakeMode(const WithoutFakeMode&) = delete;
  WithoutFakeMode(WithoutFakeMode&&) = delete;
  WithoutFakeMode& operator=(const WithoutFakeMode&) = delete;
  WithoutFakeMode& operator=(WithoutFakeMode&&) = delete;

  // The mode that was active, or null. A borrowed reference.
  PyObject* active() const;
  // Ends the context early. Throws where another mode is active.
  void restore() {
    if (const auto active = std::exchange(active_, std::nullopt))
      c10::impl::TorchDispatchModeTLS::set_mode(*active, key);
  }

 private:
  static constexpr auto key = c10::impl::TorchDispatchModeKey::FAKE;
  std::optional<std::shared_ptr<c10::impl::PyObject_TorchDispatchMode>> active_;
};

// No `__torch_function__` is called.
class WithoutTorchFunction {
 public:
  WithoutTorchFunction() { State::set_disabled_state(at::impl::TorchFunctionDisabledState::ALL_DISABLED); }
  ~WithoutTorchFunction() { State::set_disabled_state(before_); }
  WithoutTorchFunction(const WithoutTorchFunction&) = delete;
  WithoutTorchFunction(WithoutTorchFunction&&) = delete;
  WithoutTorchFunction& operator=(const WithoutTorchFunction&) = delete;
  WithoutTorchFunction& operator=(WithoutTorchFunction&&) = delete;

 private:
  using State = at::impl::PythonTorchFunctionTLS;
  at::impl::TorchFunctionDisabledState before_ = State::get_disabled_state();
};

// A WithoutFakeMode for Python's `with`.
class FakeModeRemoval {
 public:
  PyObject* enter() { return removed_.emplace_back(std::make_unique<WithoutFakeMode>())->active(); }
  void leave() {
    if (removed_.empty()) return;
    const auto latest = std::move(removed_.back());
    removed_.pop_back();
    latest->restore();
  }

 private:
  std::vector<std::unique_ptr<WithoutFakeMode>> removed_;
};

// Values are followed in another way; see ThreadState::following. For Python's `with`, once.
class Following {
 public:
  explicit Following(int following) : following_(following) {}
  void exchange() { following_ = std::exchange(thread_state.following, following_); }

 private:
  int following_;
};

// Calls compute with real tensors, below autograd and whatever modes are active. For Python's `with`, once.
class RealComputation {
 public:
  void enter() { guards_ = std::make_unique<Guards>(); }
  void leave() { guards_.reset(); }

 private:
  // Left in the opposite order.
  struct Guards {
    torch::DisableTorchDispatch without_modes;
    WithoutTorchFunction without_functions;
    c10::InferenceMode without_inference_mode{false};
    at::AutoDispatchBelowAutograd below_autograd;
  };
  std::unique_ptr<Guards> guards_;
};

}  // namespace fastfake
