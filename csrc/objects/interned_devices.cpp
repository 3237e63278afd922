#include "objects/interned_devices.h"

#include "objects/python_guards.h"

#include <torch/csrc/Device.h>

namespace fastfake {

PyObject* InternedDevices::object(c10::Device device) {
  auto& of_type = by_type_.at(static_cast<size_t>(device.type()));
  const auto position = static_cast<size_t>(device.index() + 1);
  if (position >= of_type.size()) of_type.resize(position + 1, nullptr);
  if (of_type[position] == nullptr) of_type[position] = PyRef::steal(THPDevice_New(device)).release();
  return of_type[position];
}

}  // namespace fastfake
