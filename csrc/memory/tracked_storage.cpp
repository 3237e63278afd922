#include "memory/tracked_storage.h"

#include "process_state.h"
#include "symbolic/sym_node.h"

#include <c10/core/Device.h>

namespace fastfake {

namespace {

void storage_died(void* context) {
  auto* tag = static_cast<TrackedStorage*>(context);
  if (tag->owners.fetch_sub(1, std::memory_order_acq_rel) == 1) process().ledger.note_death(tag);
}

}  // namespace

TrackedStorage* tag_of(c10::StorageImpl& storage) noexcept {
  const auto& pointer = storage._mutable_data_ptr_no_checks();
  return pointer.get_deleter() == &storage_died ? static_cast<TrackedStorage*>(pointer.get_context())
                                                : nullptr;
}

void put_tag(c10::StorageImpl& storage, TrackedStorage* tag) {
  storage.set_data_ptr_noswap(c10::DataPtr(nullptr, tag, &storage_died, storage.device()));
}

int64_t bytes_of(const c10::StorageImpl& storage) {
  const c10::SymInt bytes = storage.sym_nbytes();
  if (const auto known = bytes.maybe_as_int()) return *known;
  PyObject* node = python_node(bytes.toSymNodeImplUnowned());
  if (node == nullptr) return 0;
  const auto hint = get_attribute_if_any(node, sym_node_names().hint);
  if (hint.get() == nullptr || !PyLong_Check(hint.get())) return 0;
  const int64_t value = PyLong_AsLongLong(hint.get());
  if (value == -1 && PyErr_Occurred() != nullptr) PyErr_Clear();
  return value < 0 ? 0 : value;
}

}  // namespace fastfake
