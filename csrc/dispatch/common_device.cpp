#include "dispatch/common_device.h"

#include "dispatch/kernel_invocation.h"
#include "objects/fake_tensor.h"
#include "objects/python_guards.h"

#include <c10/util/irange.h>
#include <torch/csrc/autograd/python_variable.h>

namespace fastfake {

namespace {

bool names_preferred_type(c10::Device device, std::string_view preferred) {
  return c10::DeviceTypeName(device.type(), /*lower_case=*/true).find(preferred) != std::string::npos;
}

}  // namespace

CommonDevice common_device(PyObject* arguments, const DeviceRules& rules) {
  auto items = PyRef::steal(PySequence_Fast(arguments, "arguments must be a sequence"));
  CommonDevice found;
  bool found_is_scalar = false;
  for (const auto i : c10::irange(PySequence_Fast_GET_SIZE(items.get()))) {
    const auto fake = FakeTensorView::of(PySequence_Fast_GET_ITEM(items.get(), i));
    if (!fake) continue;
    const c10::Device device = in_kernel_invocation(fake.mode()) ? c10::Device(c10::kMeta) : fake.device();
    const bool is_scalar = device.is_cpu() && THPVariable_Unpack(fake.object()).dim() == 0;
    if (!found.device) {
      found.device = device;
      found_is_scalar = is_scalar;
      continue;
    }
    if (device == *found.device) {
      found_is_scalar = found_is_scalar && is_scalar;
      continue;
    }
    if (is_scalar && rules.scalars_mix) continue;
    if (found_is_scalar && rules.scalars_mix) {
      found.device = device;
      found_is_scalar = is_scalar;
      continue;
    }
    const auto free = rules.mixes_freely;
    if (free && (device.type() == *free || found.device->type() == *free)) continue;
    if (!rules.preferred.empty()) {
      const bool found_preferred = names_preferred_type(*found.device, rules.preferred);
      if (found_preferred != names_preferred_type(device, rules.preferred)) {
        if (!found_preferred) {
          found.device = device;
          found_is_scalar = is_scalar;
        }
        continue;
      }
    }
    found.mismatch = device;
    return found;
  }
  return found;
}

}  // namespace fastfake
