// The device on which the results of an operator live, found from its arguments.
#pragma once

#include <c10/core/Device.h>
#include <torch/csrc/python_headers.h>

#include <cstdint>
#include <optional>
#include <string_view>

namespace fastfake {

// What an operator and the configuration allow beyond "all on one device".
struct DeviceRules {
  // Zero-dimensional CPU tensors mix with tensors on any other device, as in eager PyTorch.
  bool scalars_mix = true;
  // Tensors on this type of device mix with any other; the first device found wins.
  std::optional<c10::DeviceType> mixes_freely;
  // A device whose type contains this text wins over one whose type does not; empty for no preference.
  std::string_view preferred;
};

struct CommonDevice {
  std::optional<c10::Device> device;    // none without a fake tensor among the arguments
  std::optional<c10::Device> mismatch;  // a second device that the rules do not let mix
};

// Looks at the fake tensors in `arguments`, a Python sequence, in order. Needs the GIL.
CommonDevice common_device(PyObject* arguments, const DeviceRules& rules);

}  // namespace fastfake
