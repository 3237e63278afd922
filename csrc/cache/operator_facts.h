// What never changes of an operator, computed at its first call.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/flat_hash_map.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace fastfake {

// Operators of which some calls are answered natively (dispatch/native_calls).
enum class NativeKind : uint8_t { None, MarksForProfiler, ReadsValue, WritesValue, Lifts };

struct OperatorFacts {
  // Names the operator in cache keys. Unlike an address it is never given to another operator.
  uint64_t id = 0;
  uint32_t arguments = 0;
  uint32_t results = 0;
  // Why no call of this operator is ever cached; null when calls may be.
  const char* bypass = nullptr;
  // A custom operator that nothing else speaks against: its calls may be cached where somebody vouches for
  // it.
  bool is_custom = false;
  // Of a library of torch's that gives fake results by functions in Python (operator_rules), whose calls
  // nobody has to vouch for.
  bool is_of_python_library = false;
  // aten::index.Tensor: its result has a dynamic shape only with a bool or int8 index.
  bool is_index = false;
  // The operator chooses between attention backends, which users switch on and off.
  bool reads_attention_settings = false;
  // aten::convolution: torch.jit traces the operator that it consists of, so that one has to be called then.
  bool is_convolution = false;
  // The arguments that it writes to, a bit each; all where torch says that it writes and its schema does not.
  uint64_t written_arguments = 0;
  // Arithmetic on each element: of a floating point number only the type counts for the metadata of results.
  bool ignores_numbers = false;
  // It asks about the tensor object itself.
  bool is_attribute_query = false;
  NativeKind native = NativeKind::None;
};

// The facts of all operators called so far. The GIL guards it.
class OperatorTable {
 public:
  OperatorTable();

  // The facts of `op`. The reference stays valid while the operator is registered.
  const OperatorFacts& facts(const c10::OperatorHandle& op) {
    if (C10_UNLIKELY(deregistered_->any())) forget_deregistered();
    const auto found = facts_.find(id_of(op));
    return C10_LIKELY(found != facts_.end()) ? *found->second : decide(op);
  }

  // From now on calls of this custom operator may be cached.
  void vouch_for(const c10::OperatorHandle& op);

  // The name of the operator whose facts have this id, registered still or not.
  const c10::OperatorName& name(uint64_t id) const { return names_.at(id - 1); }

 private:
  using OperatorId = const void*;

  // The operators that went away, whose addresses may be given to others. The dispatcher reports them under
  // its own lock and from any thread, so the table, which belongs to the holder of the GIL, cannot be changed
  // then; they wait here. Without a lock, which a fork could leave held in the child for ever.
  class Deregistered {
   public:
    Deregistered() = default;
    ~Deregistered();
    Deregistered(const Deregistered&) = delete;
    Deregistered(Deregistered&&) = delete;
    Deregistered& operator=(const Deregistered&) = delete;
    Deregistered& operator=(Deregistered&&) = delete;

    bool any() const noexcept { return latest_.load(std::memory_order_acquire) != nullptr; }
    void add(OperatorId id);
    // Returns those that were added since the last call.
    std::vector<OperatorId> take();

   private:
    struct Node {
      OperatorId id;
      Node* earlier;
    };
    std::atomic<Node*> latest_{nullptr};
  };
  class Listener;

  // The operator's name lives inside the dispatcher's record of it, which does not move.
  static OperatorId id_of(const c10::OperatorHandle& op) { return &op.operator_name(); }

  const OperatorFacts& decide(const c10::OperatorHandle& op);
  void forget_deregistered();

  ska::flat_hash_map<OperatorId, std::unique_ptr<OperatorFacts>> facts_;
  std::vector<c10::OperatorName> names_;  // by id less one
  std::shared_ptr<Deregistered> deregistered_ = std::make_shared<Deregistered>();
  c10::RegistrationHandleRAII listening_;
};

}  // namespace fastfake
