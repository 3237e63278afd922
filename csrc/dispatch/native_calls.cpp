#include "dispatch/native_calls.h"

#include "cache/operator_rules.h"
#include "dispatch/kernel_invocation.h"
#include "dispatch/lifting.h"
#include "objects/fake_tensor.h"
#include "objects/python_guards.h"
#include "process_state.h"

#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/disable_torch_function.h>

#include <algorithm>
#include <utility>

namespace fastfake {

namespace {

using torch::jit::Stack;

// What the kernels of the CPU compute with, and Python numbers can hold.
bool is_plain(const at::Tensor& tensor) {
  const auto& impl = *tensor.unsafeGetTensorImpl();
  return impl.has_storage() && tensor.is_cpu() && tensor.layout() == c10::kStrided &&
         tensor.scalar_type() != c10::kUInt64 && !impl.key_set().has(c10::DispatchKey::Python) &&
         !impl.has_symbolic_sizes_strides();
}

// The value of a fake tensor of `mode`; undefined unless it is known and plain.
at::Tensor known_value(const at::Tensor& tensor, const ModeState* mode) {
  if (!tensor.defined()) return {};
  const auto fake = FakeTensorView::of(tensor.unsafeGetTensorImpl());
  if (!fake || fake.mode() != reinterpret_cast<const PyObject*>(mode)) return {};
  PyObject* value = fake.constant();
  if (!THPVariable_CheckExact(value)) return {};
  const auto& known = THPVariable_Unpack(value);
  return is_plain(known) ? known : at::Tensor();
}

// The arguments of a call with values in the place of the tensors; empty where one is not known.
std::vector<c10::IValue> with_values(c10::ArrayRef<c10::IValue> arguments, const ModeState* mode) {
  auto values = arguments.vec();
  for (auto& value : values) {
    if (value.isTensor()) {
      const auto& tensor = value.toTensor();
      if (!tensor.defined() || tensor.unsafeGetTensorImpl()->is_wrapped_number()) continue;
      at::Tensor known = known_value(tensor, mode);
      if (!known.defined()) return {};
      value = std::move(known);
    } else if (!value.isNone() && !value.isInt() && !value.isDouble() && !value.isBool() &&
               !value.isComplexDouble()) {
      return {};
    }
  }
  return values;
}

void run_below_python(const c10::OperatorHandle& op, Stack* stack) {
  const torch::DisableTorchDispatch guard;
  op.callBoxed(stack);
}

// Whether computing the call would give the fake tensor itself, once the operator wrote to its value.
bool is_given_back(const at::Tensor& tensor, const ModeState* mode) {
  PyObject* fake = FakeTensorView::of(tensor.unsafeGetTensorImpl()).object();
  auto* of_mode = reinterpret_cast<PyObject*>(const_cast<ModeState*>(mode));
  return is_true(
      PyRef::steal(PyObject_CallFunctionObjArgs(process().is_given_back, of_mode, fake, nullptr)).get());
}

bool read_value(const c10::OperatorHandle& op, Stack* stack, const ModeState* mode) {
  at::Tensor value = known_value(stack->back().toTensor(), mode);
  if (!value.defined()) return false;
  stack->back() = std::move(value);
  run_below_python(op, stack);
  return true;
}

bool write_value(const c10::OperatorHandle& op, size_t arguments, Stack* stack, const ModeState* mode) {
  auto values = with_values(torch::jit::last(*stack, arguments), mode);
  if (values.empty()) return false;
  const auto written = torch::jit::peek(*stack, 0, arguments);
  if (!is_given_back(written.toTensor(), mode)) return false;
  run_below_python(op, &values);
  torch::jit::drop(*stack, arguments);
  stack->push_back(written);
  return true;
}

}  // namespace

bool run_natively(const c10::OperatorHandle& op, const OperatorFacts& facts, Stack* stack, ModeState* mode) {
  if (C10_LIKELY(facts.native == NativeKind::None) || in_kernel_invocation(mode)) return false;
  // Where values are followed, Python tells what becomes of them.
  if (mode->known_values != 0 && facts.native != NativeKind::MarksForProfiler) return false;
  const auto rules = process().operator_rules.of(facts);
  if ((rules & has_dispatch_rule) != 0) return false;
  switch (facts.native) {
    case NativeKind::MarksForProfiler:
      // torch has a rule that runs the kernel.
      if ((rules & has_no_rule_of_programs) == 0 || process().vouched_operators.profiles_are_set())
        return false;
      run_below_python(op, stack);
      return true;
    case NativeKind::ReadsValue:
      return read_value(op, stack, mode);
    case NativeKind::WritesValue:
      return write_value(op, facts.arguments, stack, mode);
    case NativeKind::Lifts:
      return lift(op, (rules & has_no_rule_of_programs) == 0, stack, mode);
    case NativeKind::None:
      break;
  }
  return false;
}

}  // namespace fastfake
