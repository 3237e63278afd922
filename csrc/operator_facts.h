// What never changes of an operator, computed at its first call.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <cstdint>

namespace fastfake {

struct OperatorFacts {
  // Names the operator in cache keys. Unlike an address it is never given to another operator.
  uint64_t id = 0;
  uint32_t arguments = 0;
  uint32_t results = 0;
  // Why no call of this operator is ever cached; null when calls may be.
  const char* bypass = nullptr;
  // aten::index.Tensor: its result has a dynamic shape only with a bool or int8 index.
  bool is_index = false;
  // The operator chooses between attention backends, which users switch on and off.
  bool reads_attention_settings = false;
};

// The facts of `op`. The reference stays valid while the operator is registered. Needs the GIL, which
// guards the table.
const OperatorFacts& operator_facts(const c10::OperatorHandle& op);

// The name of the operator whose facts have this id, registered still or not.
const c10::OperatorName& operator_name(uint64_t id);

// Starts to watch for operators that go away, whose addresses may be given to others. To be called once.
void watch_operator_deregistration();

}  // namespace fastfake
