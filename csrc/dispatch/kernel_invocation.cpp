#include "dispatch/kernel_invocation.h"

namespace fastfake {

namespace {

// Python modes and subclasses, the snapshot that belongs to them, and pre-dispatch tracing.
constexpr c10::DispatchKeySet python_dispatch_keys({
    c10::DispatchKey::Python,
    c10::DispatchKey::PythonTLSSnapshot,
    c10::DispatchKey::PreDispatch,
});

}  // namespace

KernelInvocation::KernelInvocation()
    : saved_keys_(c10::impl::tls_local_dispatch_key_set()), saved_inside_(thread_state.inside_kernel) {
  auto keys = saved_keys_;
  keys.excluded_ = keys.excluded_ | python_dispatch_keys;
  keys.included_ = keys.included_.add(c10::DispatchKey::Meta);
  c10::impl::_force_tls_local_dispatch_key_set(keys);
  thread_state.inside_kernel = true;
}

KernelInvocation::~KernelInvocation() {
  thread_state.inside_kernel = saved_inside_;
  // The whole set is put back, not only Meta taken out: Meta implies the Dense functionality, and
  // removing it alone would leave Dense included.
  c10::impl::_force_tls_local_dispatch_key_set(saved_keys_);
}

}  // namespace fastfake
