#include "dispatch/attention_choice.h"

#include "process_state.h"

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <c10/core/SymBool.h>
#include <c10/core/SymInt.h>

#include <cstdint>
#include <optional>

namespace fastfake {

namespace {

using at::SDPBackend;
using at::Tensor;
using c10::SymInt;

// The arguments of one call.
struct Attention {
  const Tensor& query;
  const Tensor& key;
  const Tensor& value;
  const std::optional<Tensor>& mask;
  bool is_causal;
  bool groups_queries;

  bool is_half() const { return query.scalar_type() == at::kHalf || query.scalar_type() == at::kBFloat16; }
  bool has_mask() const { return mask.has_value() && mask->defined(); }
};

// What is not known of symbols is taken for false, as torch does here; no guard is added.
bool is_surely(const c10::SymBool& condition) { return TORCH_GUARD_OR_FALSE(condition); }

bool equal(const SymInt& left, const SymInt& right) { return is_surely(left.sym_eq(right)); }

bool have_four_dimensions(const Attention& call) {
  return call.query.dim() == 4 && call.key.dim() == 4 && call.value.dim() == 4;
}

bool have_one_dtype(const Attention& call) {
  const auto dtype = call.query.scalar_type();
  return call.key.scalar_type() == dtype && call.value.scalar_type() == dtype;
}

bool last_strides_are_one(const Attention& call) {
  const auto one = [](const Tensor& tensor) { return equal(tensor.sym_stride(-1), 1); };
  const auto mask = call.mask.value_or(Tensor());
  return one(call.query) && one(call.key) && one(call.value) && (!mask.defined() || one(mask));
}

bool no_sequence_is_empty(const Attention& call) {
  return !equal(call.query.sym_size(2), 0) && !equal(call.key.sym_size(2), 0) &&
         !equal(call.value.sym_size(2), 0);
}

bool batches_are_equal(const Attention& call) {
  return equal(call.query.sym_size(0), call.key.sym_size(0)) &&
         equal(call.query.sym_size(0), call.value.sym_size(0));
}

bool heads_are_equal(const Attention& call) {
  return equal(call.query.sym_size(1), call.key.sym_size(1)) &&
         equal(call.query.sym_size(1), call.value.sym_size(1));
}

bool heads_are_grouped(const Attention& call) {
  const auto queries = call.query.sym_size(1);
  const auto keys = call.key.sym_size(1);
  const auto values = call.value.sym_size(1);
  return !equal(keys, 0) && !equal(values, 0) && equal(queries % keys, 0) && equal(queries % values, 0);
}

bool flash_can_run(const Attention& call) {
  const auto head = call.query.sym_size(-1);
  const bool causal_is_square = !call.is_causal || equal(call.query.sym_size(2), call.key.sym_size(2));
  return process().pretended_device.major >= 8 && call.is_half() && !call.has_mask() &&
         equal(head, call.key.sym_size(-1)) && equal(head, call.value.sym_size(-1)) &&
         is_surely(head.sym_le(256)) && causal_is_square &&
         (call.groups_queries ? heads_are_grouped(call) : heads_are_equal(call));
}

bool efficient_can_run(const Attention& call) {
  const auto& device = process().pretended_device;
  const bool known_dtype = call.query.scalar_type() == at::kFloat || call.query.scalar_type() == at::kHalf ||
                           (call.query.scalar_type() == at::kBFloat16 && device.major >= 8);
  const bool tensor_cores = device.major >= 8 || (device.major == 7 && call.is_half());
  int alignment = device.major >= 8 ? 4 : 1;
  if (tensor_cores) alignment = call.is_half() ? 8 : 4;
  const auto aligned = [&](const SymInt& head) {
    return is_surely(head.sym_gt(0)) && equal(head % alignment, 0);
  };
  const auto head = call.query.sym_size(-1);
  return device.major >= 5 && known_dtype && equal(head, call.key.sym_size(-1)) && aligned(head) &&
         aligned(call.value.sym_size(-1)) && !call.groups_queries && heads_are_equal(call);
}

bool fused_can_run(const Attention& call) {
  return have_four_dimensions(call) && have_one_dtype(call) && batches_are_equal(call) &&
         no_sequence_is_empty(call) && last_strides_are_one(call);
}

bool may_choose(SDPBackend backend, const Attention& call) {
  const auto& context = at::globalContext();
  switch (backend) {
    case SDPBackend::math:
      return context.userEnabledMathSDP();
    case SDPBackend::flash_attention:
      return context.userEnabledFlashSDP() && fused_can_run(call) && flash_can_run(call);
    case SDPBackend::efficient_attention:
      return context.userEnabledMemEfficientSDP() && fused_can_run(call) && efficient_can_run(call);
    default:
      return false;
  }
}

int64_t choose(const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& mask,
               double /*dropout*/, bool is_causal, std::optional<double> /*scale*/, bool groups_queries) {
  const Attention call{query, key, value, mask, is_causal, groups_queries};
  const bool is_claimed = process().pretended_device.active;
  for (const auto backend : at::globalContext().sDPPriorityOrder()) {
    if ((is_claimed || backend == SDPBackend::math) && may_choose(backend, call))
      return static_cast<int64_t>(backend);
  }
  TORCH_CHECK(false, "No available kernel. Aborting execution.");
}

}  // namespace

void choose_attention_on_cuda() { at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(choose); }

void leave_attention_on_cuda() {
  if (!at::detail::getCUDAHooks().isBuilt())
    at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(nullptr);
}

}  // namespace fastfake
