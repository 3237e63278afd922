#include "dispatch/pretended_device.h"

#include "dispatch/attention_choice.h"
#include "dispatch/built_accelerators.h"
#include "process_state.h"

#include <ATen/DeviceAccelerator.h>
#include <c10/util/Exception.h>

namespace fastfake {

void pretend_cuda(int major, int minor) {
  auto& pretended = process().pretended_device;
  TORCH_CHECK(!pretended.active, "there are pretended devices already");
  process().device_guards.replace_torchs_of_cuda();
  if (!at::getAccelerator().has_value()) let_count_as_built(c10::DeviceType::CUDA);
  process().device_guards.lend();
  pretended.major = major;
  pretended.minor = minor;
  choose_attention_on_cuda();
  pretended.active = true;
  // Meta kernels and decompositions ask torch.cuda, too.
  process().registrations.note();
}

void stop_pretending() {
  auto& pretended = process().pretended_device;
  if (!pretended.active) return;
  pretended.active = false;
  leave_attention_on_cuda();
  process().device_guards.take_back();
  process().registrations.note();
}

}  // namespace fastfake
