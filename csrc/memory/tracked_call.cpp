#include "memory/tracked_call.h"

#include "dispatch/thread_state.h"
#include "objects/fake_tensor.h"
#include "process_state.h"

#include <algorithm>

namespace fastfake {

namespace {

// Calls `visit(storage, device)` for the storages of the fake tensors in a value, in a list too.
template <typename Visit>
void for_each_storage(const c10::IValue& value, const Visit& visit) {
  if (value.isList()) {
    for (const auto& element : value.toListRef()) for_each_storage(element, visit);
    return;
  }
  if (!value.isTensor()) return;
  const auto* impl = value.unsafeToTensorImpl();
  const auto fake = FakeTensorView::of(impl);
  if (!fake || !impl->has_storage()) return;
  visit(impl->storage(), fake.device());
}

}  // namespace

TrackedCall::TrackedCall(const c10::OperatorHandle& op, const torch::jit::Stack& stack, ModeState* mode)
    : facts_(process().operators.facts(op)), below_(stack.size() - facts_.arguments) {
  if (thread_state.inside_tracked_call || !process().ledger.follows(reinterpret_cast<PyObject*>(mode)))
    return;
  active_.emplace();
  gives_argument_back_ = op.operator_name().name == "_c10d_functional::wait_tensor";
  const auto* watched = process().ledger.watched_argument(static_cast<uint32_t>(facts_.id));
  const auto arguments = torch::jit::last(stack, facts_.arguments);
  for (size_t index = 0; index < arguments.size(); ++index) {
    const bool is_written = index < 64 && ((facts_.written_arguments >> index) & 1) != 0;
    for_each_storage(arguments[index], [&](const c10::Storage& storage, c10::Device device) {
      auto& impl = *storage.unsafeGetStorageImpl();
      process().ledger.note(impl, device, /*op=*/0);
      if (watched != nullptr && watched->index == index)
        process().ledger.note_role(impl, device, watched->role, /*module=*/0);
      if (is_written || gives_argument_back_) written_.emplace_back(storage, device);
    });
  }
}

void TrackedCall::finish(const torch::jit::Stack& stack) {
  if (!active_ || !process().ledger.is_on()) return;
  auto& ledger = process().ledger;
  const auto op = static_cast<uint32_t>(facts_.id);
  for (const auto& [storage, device] : written_) ledger.note(*storage.unsafeGetStorageImpl(), device, op);
  for (size_t index = below_; index < stack.size(); ++index) {
    for_each_storage(stack[index], [&](const c10::Storage& storage, c10::Device device) {
      auto& impl = *storage.unsafeGetStorageImpl();
      // The kernel of a fake group makes a tensor where a real one gives back what it got.
      if (gives_argument_back_ && !written_.empty())
        ledger.note_alias(impl, *written_.front().first.unsafeGetStorageImpl());
      ledger.note(impl, device, op);
    });
  }
}

}  // namespace fastfake
