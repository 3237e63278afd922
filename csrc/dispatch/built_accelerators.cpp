#include "dispatch/built_accelerators.h"

#include "dispatch/fake_backward.h"
#include "process_state.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/HPUHooksInterface.h>
#include <ATen/detail/MPSHooksInterface.h>
#include <ATen/detail/MTIAHooksInterface.h>
#include <ATen/detail/XPUHooksInterface.h>

#include <new>
#include <typeinfo>

namespace fastfake {

namespace {

using c10::DeviceType;

template <class Interface, DeviceType type>
class HooksOfAbsent final : public Interface {
 public:
  bool isBuilt() const override { return counts_as_built(type); }
};

// MTIA is an accelerator when it is there, not when torch was built for it.
template <>
class HooksOfAbsent<at::MTIAHooksInterface, DeviceType::MTIA> final : public at::MTIAHooksInterface {
 public:
  bool hasMTIA() const override { return counts_as_built(DeviceType::MTIA); }
};

// Of a type of device that torch was not built for, it asks an object that says no to everything. The object
// stays where it is, since torch keeps references to it, and gets methods of which one says yes during such a
// pass.
template <DeviceType type, class Interface>
void let_count_as_built(const Interface& hooks) {
  static_assert(sizeof(HooksOfAbsent<Interface, type>) == sizeof(Interface));
  if (typeid(hooks) != typeid(Interface)) return;
  new (const_cast<Interface*>(&hooks)) HooksOfAbsent<Interface, type>;
}

}  // namespace

bool counts_as_built(DeviceType type) {
  return goes_backward_on_fakes(type) || (type == DeviceType::CUDA && process().pretended_device.active);
}

void let_count_as_built(DeviceType type) {
  switch (type) {
    case DeviceType::CUDA:
      return let_count_as_built<DeviceType::CUDA>(at::detail::getCUDAHooks());
    case DeviceType::XPU:
      return let_count_as_built<DeviceType::XPU>(at::detail::getXPUHooks());
    case DeviceType::MPS:
      return let_count_as_built<DeviceType::MPS>(at::detail::getMPSHooks());
    case DeviceType::MTIA:
      return let_count_as_built<DeviceType::MTIA>(at::detail::getMTIAHooks());
    case DeviceType::HPU:
      return let_count_as_built<DeviceType::HPU>(at::detail::getHPUHooks());
    default:
      return;  // no accelerator in torch's eyes, or PrivateUse1, which is one as soon as it has a name
  }
}

}  // namespace fastfake
