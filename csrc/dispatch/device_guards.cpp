#include "dispatch/device_guards.h"

#include <c10/core/DeviceType.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace fastfake {

namespace {

template <c10::DeviceType type>
void provide_if_missing() {
  static const auto* const guard = new c10::impl::NoOpDeviceGuardImpl<type>();  // the registry does not own
  const c10::impl::DeviceGuardImplInterface* missing = nullptr;
  c10::impl::device_guard_impl_registry[static_cast<size_t>(type)].compare_exchange_strong(missing, guard);
}

}  // namespace

void provide_missing_device_guards() {
  provide_if_missing<c10::DeviceType::CUDA>();
  provide_if_missing<c10::DeviceType::XPU>();
  provide_if_missing<c10::DeviceType::MPS>();
  provide_if_missing<c10::DeviceType::HPU>();
  provide_if_missing<c10::DeviceType::MTIA>();
}

}  // namespace fastfake
