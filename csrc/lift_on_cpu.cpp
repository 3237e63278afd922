#include "lift_on_cpu.h"

#include <torch/csrc/utils/tensor_new.h>

#include <cstddef>

namespace fastfake {

namespace {
std::size_t active = 0;
bool flag_before = false;
}  // namespace

void begin_lift_on_cpu() {
  if (active++ > 0) return;
  flag_before = torch::utils::only_lift_cpu_tensors();
  torch::utils::set_only_lift_cpu_tensors(true);
}

void end_lift_on_cpu() {
  if (--active == 0) torch::utils::set_only_lift_cpu_tensors(flag_before);
}

}  // namespace fastfake
