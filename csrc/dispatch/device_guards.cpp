#include "dispatch/device_guards.h"

#include "dispatch/thread_state.h"

#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <c10/util/Exception.h>

#include <utility>

namespace fastfake {

namespace {

using c10::DeviceType;
using c10::impl::DeviceGuardImplInterface;

// Types without a guard of ours: torch takes the guard for a sign that the backend is there.
constexpr bool presence_is_read_off_the_guard(DeviceType type) {
  return type == DeviceType::IPU || type == DeviceType::Lazy || type == DeviceType::MAIA;
}

void replace(const AbsentDeviceGuard& guard, const DeviceGuardImplInterface* old,
             const DeviceGuardImplInterface* wanted) {
  if (presence_is_read_off_the_guard(guard.type())) return;
  c10::impl::device_guard_impl_registry[static_cast<size_t>(guard.type())].compare_exchange_strong(old,
                                                                                                   wanted);
}

template <size_t... type>
std::array<AbsentDeviceGuard, sizeof...(type)> one_for_each(std::index_sequence<type...> /*types*/) {
  return {AbsentDeviceGuard(static_cast<DeviceType>(type))...};
}

}  // namespace

c10::Device AbsentDeviceGuard::getDevice() const {
  refuse_real_calls();
  return no_index();
}

c10::Stream AbsentDeviceGuard::getNewStream(c10::Device /*device*/, int /*priority*/) const {
  refuse_real_calls();
  return default_stream();
}

void AbsentDeviceGuard::record(void** event, const c10::Stream& stream, c10::DeviceIndex device,
                               c10::EventFlag flag) const {
  refuse_real_calls();
  DeviceGuardImplInterface::record(event, stream, device, flag);
}

void AbsentDeviceGuard::refuse_real_calls() const {
  const auto mode = c10::impl::TorchDispatchModeTLS::get_mode(c10::impl::TorchDispatchModeKey::FAKE);
  TORCH_CHECK(mode.has_value() || thread_state.inside_kernel, "PyTorch is not linked with support for ",
              type_, " devices");
}

DeviceGuards::DeviceGuards() : guards_(one_for_each(std::make_index_sequence<types>())) {}

void DeviceGuards::provide(DeviceType type) {
  const auto index = static_cast<size_t>(type);
  if (std::exchange(provided_.at(index), true)) return;
  replace(guards_.at(index), nullptr, &guards_.at(index));
}

void DeviceGuards::lend() {
  if (++lent_ != 1) return;
  for (const auto& guard : guards_) replace(guard, nullptr, &guard);
}

void DeviceGuards::take_back() {
  if (lent_ == 0) return;
  --lent_;
  if (lent_ != 0) return;
  for (size_t index = 0; index < types; ++index) {
    if (!provided_[index]) replace(guards_[index], &guards_[index], nullptr);
  }
}

}  // namespace fastfake
