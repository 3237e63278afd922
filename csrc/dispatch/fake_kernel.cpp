#include "dispatch/fake_kernel.h"

#include "cache/kept.h"
#include "dispatch/declined_calls.h"
#include "dispatch/interpreter_hook.h"
#include "dispatch/mode_stack.h"
#include "dispatch/native_calls.h"
#include "dispatch/real_arguments.h"
#include "memory/tracked_call.h"
#include "objects/native_mode.h"
#include "objects/python_guards.h"
#include "process_state.h"
#include "symbolic/facts.h"

#include <torch/csrc/jit/python/pybind_utils.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace fastfake {

namespace {

// One call. `run` is the recipe; the methods below it are its steps, in the order in which they come.
class FakeCall {
 public:
  FakeCall(const c10::OperatorHandle& op, torch::jit::Stack* stack, ModeState* mode)
      : op_(op), stack_(stack), mode_(mode), facts_(process().operators.facts(op)) {}

  void run() {
    if (!mode_->answers_from_cache()) return compute();
    Bypass bypass = bypass_of_operator();
    if (C10_LIKELY(bypass == nullptr)) bypass = key_.build(facts_, *mode_, arguments());
    if (C10_UNLIKELY(bypass != nullptr)) {
      if (bypass == real_argument && !is_left_to_a_class(arguments()) && convert_real_arguments()) {
        return FakeCall(op_, stack_, mode_).run();
      }
      if (!mode_->cache_crosscheck_enabled && run_natively(op_, facts_, stack_, mode_)) {
        ++cache_.statistics.hits;
        return;
      }
      return compute_uncached(bypass);
    }
    const auto entry = cache_.find(key_);
    if (!entry) return compute_and_record();
    if (entry->bypass != nullptr) return compute_uncached(entry->bypass);
    answer(entry->recipe);
  }

  bool run_if_cached() {
    if (!mode_->answers_from_cache() || bypass_of_operator() != nullptr) return false;
    if (key_.build(facts_, *mode_, arguments()) != nullptr) return false;
    const auto entry = cache_.find(key_);
    if (!entry || entry->bypass != nullptr) return false;
    answer(entry->recipe);
    return true;
  }

 private:
  Bypass bypass_of_operator() const {
    return C10_LIKELY(!facts_.is_custom) ? facts_.bypass : process().vouched_operators.bypass_of(facts_);
  }

  c10::ArrayRef<c10::IValue> arguments() const { return torch::jit::last(*stack_, facts_.arguments); }

  void compute() { dispatch_by_torch(op_, stack_); }

  void compute_uncached(Bypass bypass) {
    if (is_left_to_a_class(arguments())) return decline();
    ++bypasses(bypass);
    compute();
  }

  void decline() {
    ++cache_.statistics.declined;
    const DecliningMode declining(facts_);
    const OutsideOfCalls outside;
    compute();
  }

  int64_t& bypasses(Bypass bypass) { return cache_.statistics.bypasses[{bypass, facts_.id}]; }

  // Puts fake tensors in the place of real ones among the arguments, as computing the call would do before
  // anything else. Returns false, and leaves the arguments as they are, where it would not, or might refuse
  // to.
  bool convert_real_arguments() {
    RealArguments real;
    auto converted = arguments().vec();
    for (auto& argument : converted) real.find_in(argument);
    // Without a fake tensor, some operators compute with the values.
    if (!real.are_beside_fake_ones()) return false;
    if (!real.convert(reinterpret_cast<PyObject*>(mode_))) return false;
    std::ranges::move(converted, stack_->end() - facts_.arguments);
    return true;
  }

  void answer(const Recipe& recipe) {
    ++cache_.statistics.hits;
    // The arguments stay on the stack until the results exist, so that an exception leaves it whole.
    c10::SmallVector<c10::IValue, 4> results;
    recipe.build(key_, reinterpret_cast<PyObject*>(mode_), results);
    if (C10_UNLIKELY(mode_->cache_crosscheck_enabled)) compare_with_computed(results);
    torch::jit::drop(*stack_, facts_.arguments);
    for (auto& result : results) stack_->push_back(std::move(result));
  }

  C10_NOINLINE void compute_and_record() {
    // The computation takes the arguments off the stack and may change their storages; the copies keep both
    // for the recipe.
    const auto taken = arguments().vec();
    const auto storages = storages_of_arguments();
    const size_t below = stack_->size() - facts_.arguments;
    const auto known_before = knowledge();
    compute();
    const auto results = c10::ArrayRef<c10::IValue>(*stack_).slice(below);
    Recipe recipe;
    const bool teaches = key_.symbols() != nullptr ? taught_the_shape_env() : made_symbols(known_before);
    const Bypass bypass = teaches                        ? "guards added"
                          : is_left_to_a_rule()          ? "torch_dispatch rule"
                          : changed_its_arguments(taken) ? "arguments changed"
                                                         : recipe.record(facts_, key_, *mode_, results);
    ++(bypass == nullptr ? cache_.statistics.misses : bypasses(bypass));
    // What was computed may be what a kernel said that has been replaced meanwhile.
    if (!teaches && process().registrations.number() == registrations_) {
      cache_.insert(key_, std::move(recipe), bypass);
    }
  }

  // torch asks such a rule before it asks a mode, so that each call has to get there.
  bool is_left_to_a_rule() const {
    return kept("rule: torch_dispatch rules", process().registrations.has_rule(op_.operator_name()));
  }

  // A remembered answer would not teach it another time.
  bool taught_the_shape_env() const { return kept("rule: guards added", !key_.symbols()->hold_still()); }

  // A fake implementation can ask for a size that depends on data although no argument has a symbol.
  bool may_make_symbols() const {
    return kept("rule: custom operator makes symbols", facts_.is_custom && mode_->shape_env != Py_None);
  }
  std::optional<Facts> knowledge() const {
    return may_make_symbols() ? Facts::of(mode_->shape_env) : std::nullopt;
  }
  bool made_symbols(const std::optional<Facts>& known_before) const {
    return may_make_symbols() && (!known_before || knowledge() != known_before);
  }

  std::vector<c10::Storage> storages_of_arguments() const {
    std::vector<c10::Storage> storages;
    storages.reserve(key_.storages().size());
    for (size_t i = 0; i < key_.storages().size(); ++i) {
      storages.emplace_back(c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(key_.storages()[i]));
    }
    return storages;
  }

  // `after` is a key with equal words, so it has as many storages.
  bool has_storages_of(const CallKey& after) const {
    for (size_t i = 0; i < key_.storages().size(); ++i) {
      if (after.storages()[i] != key_.storages()[i]) return false;
    }
    return true;
  }

  // An operator that resizes, restrides or otherwise changes the metadata of an argument, or its storage,
  // does so again each time: what it does is more than its results.
  bool changed_its_arguments(c10::ArrayRef<c10::IValue> taken) const {
    CallKey after;
    const bool changed = after.build(facts_, *mode_, taken) != nullptr || after.words() != key_.words() ||
                         !has_storages_of(after);
    return kept("rule: changed arguments", changed);
  }

  C10_NOINLINE void compare_with_computed(c10::ArrayRef<c10::IValue> results) {
    torch::jit::Stack computed = arguments().vec();
    mode_->cache_enabled = false;
    struct Reenable {
      ModeState* mode;
      ~Reenable() { mode->cache_enabled = true; }
    } reenable{mode_};
    dispatch_by_torch(op_, &computed);
    const auto as_list = [](c10::ArrayRef<c10::IValue> values) {
      py::list list;
      for (const auto& value : values) list.append(torch::jit::toPyObject(value));
      return list;
    };
    const py::handle compare = process().crosscheck;
    compare(c10::toString(op_.operator_name()), as_list(arguments()), as_list(results), as_list(computed));
  }

  const c10::OperatorHandle& op_;
  torch::jit::Stack* stack_;
  ModeState* mode_;
  const OperatorFacts& facts_;
  DispatchCache& cache_ = process().cache;
  const uint64_t registrations_ = process().registrations.number();
  CallKey key_;
};

// Calls reach the kernel through the interpreter hook. What arrives here was sent by somebody who names the
// key.
void fake_fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const GilGuard gil;
  PyObject* top = top_mode();
  ModeState* mode = top == nullptr ? nullptr : native_mode(top);
  TORCH_CHECK_NOT_IMPLEMENTED(mode != nullptr, op.operator_name(),
                              " was called at DispatchKey::Fake without an active FakeTensorMode");
  const auto keep = PyRef::borrow(top);
  FakeCall(op, stack, mode).run();
}

TORCH_LIBRARY_IMPL(_, Fake, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fake_fallback>());
}

}  // namespace

void run_fake_kernel(const c10::OperatorHandle& op, torch::jit::Stack* stack, ModeState* mode) {
  if (C10_LIKELY(!process().ledger.is_on())) return FakeCall(op, stack, mode).run();
  TrackedCall tracked(op, *stack, mode);
  FakeCall(op, stack, mode).run();
  tracked.finish(*stack);
}

bool answer_from_cache(const c10::OperatorHandle& op, torch::jit::Stack* stack, ModeState* mode) {
  if (C10_LIKELY(!process().ledger.is_on())) return FakeCall(op, stack, mode).run_if_cached();
  TrackedCall tracked(op, *stack, mode);
  if (!FakeCall(op, stack, mode).run_if_cached()) return false;
  tracked.finish(*stack);
  return true;
}

}  // namespace fastfake
