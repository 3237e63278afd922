#include "dispatch/kernel_invocation.h"

#include "objects/mode_state.h"

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <vector>

namespace fastfake {

namespace {

// Python modes and subclasses, the snapshot that belongs to them, and pre-dispatch tracing.
constexpr c10::DispatchKeySet python_dispatch_keys({
    c10::DispatchKey::Python,
    c10::DispatchKey::PythonTLSSnapshot,
    c10::DispatchKey::PreDispatch,
});

// What to go back to when a context is left.
struct State {
  c10::impl::LocalDispatchKeySet keys = c10::impl::tls_local_dispatch_key_set();
  bool inside = thread_state.inside_kernel;

  // The whole set is put back, not only Meta taken out: Meta implies the Dense functionality, and
  // removing it alone would leave Dense included.
  void restore() const {
    thread_state.inside_kernel = inside;
    c10::impl::_force_tls_local_dispatch_key_set(keys);
  }
};

struct Invocation {
  const KernelInvocation* context;
  State before;
};

// This thread's invocations that were not left yet, and the modes that it forces.
thread_local std::vector<Invocation> invocations;
thread_local std::vector<c10::intrusive_ptr<ModeIdentity>> forced;

bool leave_latest_of(const KernelInvocation* context) {
  const auto latest = std::find_if(invocations.rbegin(), invocations.rend(),
                                   [&](const Invocation& i) { return i.context == context; });
  if (latest == invocations.rend()) return false;
  if (latest == invocations.rbegin()) {
    latest->before.restore();
  } else {
    // Later invocations are still there: the next one goes back to where this one would have.
    std::prev(latest)->before = latest->before;
  }
  invocations.erase(std::next(latest).base());
  return true;
}

}  // namespace

bool is_forced(const void* mode) noexcept {
  return std::ranges::any_of(forced, [&](const auto& identity) { return identity->mode == mode; });
}

void force_kernel_invocation(ModeState& mode, bool inside) {
  if (inside) {
    if (!is_forced(&mode)) forced.push_back(mode.identity());
  } else {
    thread_state.inside_kernel = false;
    std::erase_if(forced, [&](const auto& identity) {
      const void* of = identity->mode;
      return of == nullptr || of == &mode;
    });
  }
  thread_state.forces_modes = !forced.empty();
}

void KernelInvocation::enter() {
  const State before;
  invocations.push_back({this, before});
  auto keys = before.keys;
  keys.excluded_ = keys.excluded_ | python_dispatch_keys;
  keys.included_ = keys.included_.add(c10::DispatchKey::Meta);
  c10::impl::_force_tls_local_dispatch_key_set(keys);
  thread_state.inside_kernel = true;
}

void KernelInvocation::leave() const {
  TORCH_CHECK(leave_latest_of(this),
              "the context of in_kernel_invocation_manager was left on a thread that is not in it");
}

KernelInvocation::~KernelInvocation() {
  while (leave_latest_of(this)) {
  }
}

}  // namespace fastfake
