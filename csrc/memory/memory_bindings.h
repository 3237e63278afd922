// What Python says to the ledger and asks it.
#pragma once

#include <torch/csrc/utils/pybind.h>

namespace fastfake {

void bind_memory(py::module_& module);

}  // namespace fastfake
