#include "operator_facts.h"

#include <ATen/core/enum_tag.h>
#include <c10/util/flat_hash_map.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

namespace fastfake {

namespace {

using OperatorId = const void*;
using Table = ska::flat_hash_map<OperatorId, std::unique_ptr<const OperatorFacts>>;

Table& table() {
  static auto* facts = new Table();  // never destroyed: calls may come at interpreter exit
  return *facts;
}

// The names of all operators that have facts, by id less one.
std::vector<c10::OperatorName>& names() {
  static auto* all = new std::vector<c10::OperatorName>();
  return *all;
}

// The operator's name lives inside the dispatcher's record of it, which does not move.
OperatorId id_of(const c10::OperatorHandle& op) { return &op.operator_name(); }

// The dispatcher reports a deregistration under its own lock and from any thread, so the table, which
// belongs to the holder of the GIL, cannot be changed there. The addresses wait here.
class Deregistered final : public c10::OpRegistrationListener {
 public:
  struct Pending {
    std::atomic<bool> any{false};
    std::mutex mutex;
    std::vector<OperatorId> ids;
  };
  static Pending& pending() {
    static auto* instance = new Pending();
    return *instance;
  }

  void onOperatorRegistered(const c10::OperatorHandle& /*op*/) override {}
  void onOperatorDeregistered(const c10::OperatorHandle& op) override {
    auto& waiting = pending();
    const std::lock_guard lock(waiting.mutex);
    waiting.ids.push_back(id_of(op));
    waiting.any.store(true, std::memory_order_release);
  }

  static void drain() {
    auto& waiting = pending();
    const std::lock_guard lock(waiting.mutex);
    for (const auto id : waiting.ids) table().erase(id);
    waiting.ids.clear();
    waiting.any.store(false, std::memory_order_release);
  }
};

// Operators whose calls torch serves without dispatching: they ask about the tensor object itself.
constexpr std::array<std::string_view, 7> attribute_queries = {
    "prim::device",       "aten::size",      "aten::stride",     "aten::storage_offset",
    "aten::is_coalesced", "aten::dense_dim", "aten::sparse_dim",
};

// Operators about autograd's record of a tensor, which is no part of a key, and operators that are called for
// what they do and not for a result. Some get this far only where autograd is off.
constexpr std::array<std::string_view, 16> outside_of_the_key = {
    "aten::_version",
    "aten::is_leaf",
    "aten::output_nr",
    "aten::retains_grad",
    "aten::retain_grad",
    "aten::data",
    "aten::set_data",
    "aten::requires_grad_",
    "aten::_backward",
    "aten::_make_dual",
    "aten::_unpack_dual",
    "aten::_print",
    "aten::_cufft_set_plan_cache_max_size",
    "aten::_cufft_clear_plan_cache",
    "aten::_cufft_get_plan_cache_max_size",
    "aten::_cufft_get_plan_cache_size",
};

bool is_builtin(std::string_view name) {
  const auto space = name.substr(0, name.find(':'));
  return space == "aten" || space == "prim" || space == "prims";
}

const char* bypass_reason(const c10::OperatorHandle& op) {
  const std::string_view name = op.operator_name().name;
  if (std::ranges::find(attribute_queries, name) != attribute_queries.end()) return "attribute query";
  if (std::ranges::find(outside_of_the_key, name) != outside_of_the_key.end())
    return "state outside of the key";
  if (op.hasTag(at::Tag::data_dependent_output)) return "data dependent output";
  const bool is_index = name == "aten::index" && op.operator_name().overload_name == "Tensor";
  if (op.hasTag(at::Tag::dynamic_output_shape) && !is_index) return "dynamic output shape";
  if (op.hasTag(at::Tag::inplace_view)) return "inplace view";
  // lift_fresh and lift_fresh_copy turn a tensor that torch.tensor() just made into a constant.
  if (name == "aten::lift_fresh" || name == "aten::lift_fresh_copy") return "lift";
  if (!is_builtin(name)) return "non-builtin";
  return nullptr;
}

}  // namespace

const OperatorFacts& operator_facts(const c10::OperatorHandle& op) {
  if (C10_UNLIKELY(Deregistered::pending().any.load(std::memory_order_acquire))) Deregistered::drain();
  const auto found = table().find(id_of(op));
  if (C10_LIKELY(found != table().end())) return *found->second;

  const auto& schema = op.schema();
  auto facts = std::make_unique<OperatorFacts>();
  names().push_back(op.operator_name());
  facts->id = names().size();
  facts->arguments = static_cast<uint32_t>(schema.arguments().size());
  facts->results = static_cast<uint32_t>(schema.returns().size());
  facts->bypass = bypass_reason(op);
  const std::string_view name = op.operator_name().name;
  facts->reads_attention_settings = name.find("scaled_dot_product") != std::string_view::npos ||
                                    name.find("_fused_sdp_choice") != std::string_view::npos ||
                                    name.find("multi_head_attention") != std::string_view::npos ||
                                    name.find("transformer_encoder_layer") != std::string_view::npos;
  facts->is_index = op.hasTag(at::Tag::dynamic_output_shape) && facts->bypass == nullptr;
  return *table().emplace(id_of(op), std::move(facts)).first->second;
}

const c10::OperatorName& operator_name(uint64_t id) { return names().at(id - 1); }

void watch_operator_deregistration() {
  // The handle would stop the watch when destroyed; it is left alive on purpose.
  static const auto* handle = new c10::RegistrationHandleRAII(
      c10::Dispatcher::singleton().addRegistrationListener(std::make_unique<Deregistered>()));
  (void)handle;
}

}  // namespace fastfake
