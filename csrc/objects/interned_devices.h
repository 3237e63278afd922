// The one Python object for each device. Fake tensors hold no other.
#pragma once

#include <c10/core/Device.h>
#include <torch/csrc/python_headers.h>

#include <array>
#include <cstddef>
#include <vector>

namespace fastfake {

class InternedDevices {
 public:
  // A borrowed reference to an object that is never freed, so that a tensor's `device` can be answered
  // without the GIL. Making one needs the GIL.
  PyObject* object(c10::Device device);

 private:
  static constexpr auto device_types = static_cast<size_t>(c10::DeviceType::COMPILE_TIME_MAX_DEVICE_TYPES);

  std::array<std::vector<PyObject*>, device_types> by_type_;  // each by index plus one: -1 is "no index"
};

}  // namespace fastfake
