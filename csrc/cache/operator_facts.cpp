#include "cache/operator_facts.h"

#include "cache/kept.h"

#include <ATen/core/enum_tag.h>
#include <torch/csrc/utils/schema_info.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>

namespace fastfake {

namespace {

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

// What a custom operator does beside giving results is not known.
constexpr auto non_builtin = "non-builtin";

// Libraries of torch's that give fake results by functions in Python.
constexpr std::array<std::string_view, 6> python_libraries = {
    "c10d", "_c10d_functional", "_c10d_functional_autograd", "_dtensor", "fsdp", "quantized_decomposed",
};

std::string_view space_of(std::string_view name) { return name.substr(0, name.find(':')); }

bool is_builtin(std::string_view name) {
  const auto space = space_of(name);
  return space == "aten" || space == "prim" || space == "prims";
}

bool is_in_python_library(std::string_view name) {
  return std::ranges::find(python_libraries, space_of(name)) != python_libraries.end();
}

bool is_query(std::string_view name) {
  return std::ranges::find(attribute_queries, name) != attribute_queries.end();
}

// What `torch.tensor` calls on the tensor that it just made of numbers.
bool lifts(const c10::OperatorHandle& op) {
  const std::string_view name = op.operator_name().name;
  return name == "aten::lift_fresh" || name == "aten::lift_fresh_copy";
}

const char* bypass_reason(const c10::OperatorHandle& op) {
  const std::string_view name = op.operator_name().name;
  const auto is_among = [name](const auto& names) { return std::ranges::find(names, name) != names.end(); };
  if (kept("rule: attribute queries", is_query(name))) return "attribute query";
  if (kept("rule: autograd's records", is_among(outside_of_the_key))) return "state outside of the key";
  if (kept("rule: data-dependent results", op.hasTag(at::Tag::data_dependent_output))) {
    return "data dependent output";
  }
  const bool is_index = name == "aten::index" && op.operator_name().overload_name == "Tensor";
  if (kept("rule: dynamic shapes", op.hasTag(at::Tag::dynamic_output_shape) && !is_index)) {
    return "dynamic output shape";
  }
  if (kept("rule: views in place", op.hasTag(at::Tag::inplace_view))) return "inplace view";
  if (kept("rule: lifting", lifts(op))) return "lift";
  if (kept("rule: custom operators", !is_builtin(name))) return non_builtin;
  return nullptr;
}

// Of these, and of those that work on lists or in place, kernels and decompositions look at the type of a
// number only to find that of the results.
constexpr std::array<std::string_view, 8> arithmetic_on_elements = {
    "add", "addcdiv", "addcmul", "div", "lerp", "mul", "rsub", "sub",
};

bool is_arithmetic(const c10::OperatorHandle& op) {
  std::string_view name = op.operator_name().name;
  constexpr std::string_view space = "aten::";
  constexpr std::string_view of_lists = "_foreach_";
  if (!name.starts_with(space)) return false;
  name.remove_prefix(space.size());
  if (name.starts_with(of_lists)) name.remove_prefix(of_lists.size());
  if (name.ends_with('_')) name.remove_suffix(1);
  if (std::ranges::find(arithmetic_on_elements, name) == arithmetic_on_elements.end()) return false;
  // Some overloads work on numbers alone, and give one.
  const auto is_of_tensors = [](const c10::Argument& argument) {
    return argument.type()->isSubtypeOf(*c10::TensorType::get()) ||
           argument.type()->isSubtypeOf(*c10::ListType::ofTensors());
  };
  const auto& schema = op.schema();
  return !schema.arguments().empty() && is_of_tensors(schema.arguments().front()) &&
         std::ranges::all_of(schema.returns(), is_of_tensors) &&
         // Rounding quotients is something else.
         op.operator_name().overload_name.find("_mode") == std::string::npos;
}

// Of a set of arguments. Those beyond share it.
constexpr size_t last_bit = 63;

// Whether the operator writes to its first argument, to no other, and returns it.
bool writes_and_returns_first(const c10::OperatorHandle& op) {
  const auto& schema = op.schema();
  if (schema.returns().size() != 1 || schema.arguments().empty()) return false;
  if (op.hasTag(at::Tag::inplace_view) || op.hasTag(at::Tag::nondeterministic_seeded)) return false;
  const auto* given = schema.returns().front().alias_info();
  const auto writes = [](const c10::Argument& argument) {
    return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
  };
  if (given == nullptr || !writes(schema.arguments().front()) ||
      *given != *schema.arguments().front().alias_info())
    return false;
  return schema.arguments().front().type()->kind() == c10::TypeKind::TensorType &&
         std::ranges::count_if(schema.arguments(), writes) == 1;
}

uint64_t written_arguments(const c10::FunctionSchema& schema) {
  uint64_t written = 0;
  const auto& arguments = schema.arguments();
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto* alias = arguments[i].alias_info();
    if (alias != nullptr && alias->isWrite()) written |= uint64_t{1} << std::min(i, last_bit);
  }
  // Of normalization, for instance, which updates its statistics while training.
  return written == 0 && torch::utils::SchemaInfo(schema).is_mutable() ? ~uint64_t{0} : written;
}

NativeKind native_kind(const c10::OperatorHandle& op) {
  const auto& [name, overload] = op.operator_name();
  if (name == "profiler::_record_function_enter_new" && overload.empty()) return NativeKind::MarksForProfiler;
  if (name == "profiler::_record_function_exit" && overload == "_RecordFunction") {
    return NativeKind::MarksForProfiler;
  }
  if (name == "aten::_local_scalar_dense") return NativeKind::ReadsValue;
  if (lifts(op)) return NativeKind::Lifts;
  if (space_of(name) == "aten" && writes_and_returns_first(op)) return NativeKind::WritesValue;
  return NativeKind::None;
}

}  // namespace

OperatorTable::Deregistered::~Deregistered() { take(); }

void OperatorTable::Deregistered::add(OperatorId id) {
  auto* node = new Node{.id = id, .earlier = latest_.load(std::memory_order_relaxed)};
  while (!latest_.compare_exchange_weak(node->earlier, node, std::memory_order_release)) {
  }
}

std::vector<OperatorTable::OperatorId> OperatorTable::Deregistered::take() {
  std::vector<OperatorId> ids;
  auto* next = latest_.exchange(nullptr, std::memory_order_acquire);
  while (next != nullptr) {
    const std::unique_ptr<const Node> node(next);
    ids.push_back(node->id);
    next = node->earlier;
  }
  return ids;
}

class OperatorTable::Listener final : public c10::OpRegistrationListener {
 public:
  explicit Listener(std::shared_ptr<Deregistered> deregistered) : deregistered_(std::move(deregistered)) {}

  void onOperatorRegistered(const c10::OperatorHandle& /*op*/) override {}
  void onOperatorDeregistered(const c10::OperatorHandle& op) override { deregistered_->add(id_of(op)); }

 private:
  std::shared_ptr<Deregistered> deregistered_;
};

OperatorTable::OperatorTable()
    : listening_(
          c10::Dispatcher::singleton().addRegistrationListener(std::make_unique<Listener>(deregistered_))) {}

void OperatorTable::forget_deregistered() {
  for (const auto id : deregistered_->take()) {
    if (kept("operators that went away", true)) facts_.erase(id);
  }
}

void OperatorTable::vouch_for(const c10::OperatorHandle& op) {
  const bool is_custom = facts(op).is_custom;
  TORCH_CHECK_VALUE(is_custom, op.operator_name(), " is not a custom operator that can be cached");
  facts_.at(id_of(op))->bypass = nullptr;
}

const OperatorFacts& OperatorTable::decide(const c10::OperatorHandle& op) {
  const auto& schema = op.schema();
  auto facts = std::make_unique<OperatorFacts>();
  names_.push_back(op.operator_name());
  facts->id = names_.size();
  facts->arguments = static_cast<uint32_t>(schema.arguments().size());
  facts->results = static_cast<uint32_t>(schema.returns().size());
  facts->bypass = bypass_reason(op);
  facts->is_custom = facts->bypass == non_builtin;
  const std::string_view name = op.operator_name().name;
  facts->written_arguments = written_arguments(schema);
  facts->ignores_numbers = kept("which operators are arithmetic", is_arithmetic(op));
  facts->is_attribute_query = is_query(op.operator_name().name);
  facts->native = native_kind(op);
  facts->is_of_python_library = facts->is_custom && is_in_python_library(name);
  const bool is_attention = name.find("scaled_dot_product") != std::string_view::npos ||
                            name.find("_fused_sdp_choice") != std::string_view::npos ||
                            name.find("multi_head_attention") != std::string_view::npos ||
                            name.find("transformer_encoder_layer") != std::string_view::npos;
  facts->reads_attention_settings = kept("which operators are attention", is_attention);
  facts->is_convolution = name == "aten::convolution";
  facts->is_index = op.hasTag(at::Tag::dynamic_output_shape) && facts->bypass == nullptr;
  return *facts_.emplace(id_of(op), std::move(facts)).first->second;
}

}  // namespace fastfake
