#include "dispatch/device_guards.h"

#include "dispatch/built_accelerators.h"
#include "dispatch/fake_backward.h"
#include "dispatch/thread_state.h"
#include "process_state.h"

#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <c10/util/Exception.h>

#include <atomic>
#include <utility>

namespace fastfake {

namespace {

using c10::DeviceType;
using c10::impl::DeviceGuardImplInterface;

// Types without a guard of ours: torch takes the guard for a sign that the backend is there.
constexpr bool presence_is_read_off_the_guard(DeviceType type) {
  return type == DeviceType::IPU || type == DeviceType::Lazy || type == DeviceType::MAIA;
}

std::atomic<const DeviceGuardImplInterface*>& registered(DeviceType type) noexcept {
  return c10::impl::device_guard_impl_registry[static_cast<size_t>(type)];
}

void put_in_place(const AbsentDeviceGuard& guard) {
  if (presence_is_read_off_the_guard(guard.type())) return;
  if (guard.torchs() != nullptr) {
    // Also of the one with eight devices, which torch's own mode puts in the place of any that has none.
    registered(guard.type()) = &guard;
  } else {
    const DeviceGuardImplInterface* none = nullptr;
    registered(guard.type()).compare_exchange_strong(none, &guard);
  }
}

void take_away(const AbsentDeviceGuard& guard) {
  const DeviceGuardImplInterface* ours = &guard;
  registered(guard.type()).compare_exchange_strong(ours, guard.torchs());
}

template <size_t... type>
std::array<AbsentDeviceGuard, sizeof...(type)> one_for_each(std::index_sequence<type...> /*types*/) {
  return {AbsentDeviceGuard(static_cast<DeviceType>(type))...};
}

}  // namespace

bool AbsentDeviceGuard::is_asked_for_fake() const {
  if (thread_state.inside_kernel || counts_as_built(type_)) return true;
  if (c10::impl::TorchDispatchModeTLS::get_mode(c10::impl::TorchDispatchModeKey::FAKE).has_value())
    return true;
  TORCH_CHECK(torchs_ != nullptr, "PyTorch is not linked with support for ", type_, " devices");
  return false;
}

c10::Device AbsentDeviceGuard::getDevice() const {
  if (!is_asked_for_fake()) return torchs_->getDevice();
  if (type_ == DeviceType::CUDA && process().pretended_device.active)
    return {type_, thread_state.pretended_index};
  // What torch's guard would say of the first device, so that a tensor there is not moved to `cuda`.
  return torchs_ != nullptr ? c10::Device(type_, 0) : no_index();
}

c10::Stream AbsentDeviceGuard::getNewStream(c10::Device device, int priority) const {
  return is_asked_for_fake() ? default_stream(device) : torchs_->getNewStream(device, priority);
}

c10::Stream AbsentDeviceGuard::exchangeStream(c10::Stream stream) const noexcept {
  if (goes_backward_on_fakes()) let_engine_know(stream);
  return default_stream(stream.device());
}

void AbsentDeviceGuard::record(void** event, const c10::Stream& stream, c10::DeviceIndex device,
                               c10::EventFlag flag) const {
  if (goes_backward_on_fakes()) return;
  if (is_asked_for_fake()) {
    DeviceGuardImplInterface::record(event, stream, device, flag);
  } else {
    torchs_->record(event, stream, device, flag);
  }
}

c10::DeviceIndex AbsentDeviceGuard::deviceCount() const noexcept {
  return torchs_ != nullptr || counts_as_built(type_) ? 0 : -1;
}

DeviceGuards::DeviceGuards() : guards_(one_for_each(std::make_index_sequence<types>())) {}

void DeviceGuards::provide(DeviceType type) {
  const auto index = static_cast<size_t>(type);
  if (std::exchange(provided_.at(index), true)) return;
  put_in_place(guards_.at(index));
  any_for_good_ = any_for_good_ || answers_for(type);
}

void DeviceGuards::lend() {
  if (++lent_ != 1) return;
  for (const auto& guard : guards_) put_in_place(guard);
}

void DeviceGuards::take_back() {
  if (lent_ == 0) return;
  --lent_;
  if (lent_ != 0) return;
  for (size_t index = 0; index < types; ++index) {
    if (!provided_[index]) take_away(guards_[index]);
  }
}

void DeviceGuards::replace_torchs_of_cuda() {
  constexpr auto index = static_cast<size_t>(DeviceType::CUDA);
  auto& guard = std::get<index>(guards_);
  const auto* present = registered(DeviceType::CUDA).load();
  if (present == nullptr || present == &guard) return;
  if (guard.torchs() == nullptr) guard.stand_in_for(present);
  if (lent_ == 0 && !provided_[index]) return;
  put_in_place(guard);
  any_for_good_ = any_for_good_ || provided_[index];
}

void DeviceGuards::stay() {
  if (std::get<static_cast<size_t>(DeviceType::CUDA)>(guards_).torchs() != nullptr) replace_torchs_of_cuda();
}

c10::DeviceIndex DeviceGuards::current_index(DeviceType type) const {
  if (type == DeviceType::CUDA && process().pretended_device.active) return thread_state.pretended_index;
  const auto* guard = registered(type).load();
  // A guard without devices raises, outside of modes ours does too.
  if (guard == nullptr || answers_for(type) || guard->deviceCount() <= 0) return -1;
  return guard->getDevice().index();
}

bool DeviceGuards::answers_for(DeviceType type) const noexcept {
  return registered(type).load() == &guards_[static_cast<size_t>(type)];
}

}  // namespace fastfake
