#include "symbolic/call_symbols.h"

#include "objects/mode_state.h"
#include "process_state.h"

namespace fastfake {

bool CallSymbols::begin(const ModeState& mode) {
  if (mode.shape_env == Py_None || process().symbol_tables.operations_are_traced()) return false;
  shape_env_ = PyRef::borrow(mode.shape_env);
  table_ = process().symbol_tables.of(shape_env_.get());
  return table_ != nullptr;
}

uint64_t CallSymbols::word_for(const c10::SymNodeImpl* node) {
  PyObject* python = python_node(node);
  if (python == nullptr) return 0;
  constexpr uint64_t is_repeated = uint64_t{1} << 63;
  if (const auto number = nodes_.find(python)) return is_repeated | *number;
  const auto* known = numbered(node);
  SymbolId id = known == nullptr ? 0 : table_->id_of(*known);
  if (id == 0) id = table_->id_of(python);
  if (id == 0) return 0;
  nodes_.add(python);
  ids_.push_back(id);
  lack_hints_ = lack_hints_ || table_->lacks_hint(id);
  owners_.push_back(c10::SymNode::reclaim_copy(const_cast<c10::SymNodeImpl*>(node)));
  return id;
}

bool CallSymbols::end() {
  facts_ = table_->refresh();
  return facts_.has_value();
}

bool CallSymbols::hold_still() const {
  return Facts::of(shape_env_.get()) == facts_ && !learns_nothing(shape_env_.get());
}

PyObject* CallSymbols::scope() const {
  if (scope_.get() != nullptr) return scope_.get();
  static PyObject* const update = PyUnicode_InternFromString("update");
  const auto symbols = PyRef::steal(PySet_New(nullptr));
  for (size_t i = 0; i < nodes_.size(); ++i) {
    PyRef::steal(PyObject_CallMethodOneArg(symbols.get(), update, symbols_of(nodes_[i]).get()));
  }
  scope_ = table_->intern_scope(PyRef::steal(PyFrozenSet_New(symbols.get())));
  return scope_.get();
}

c10::SymInt CallSymbols::integer(uint32_t number) const {
  auto& owner = owners_[number];
  if (numbered(owner.get()) == nullptr) {
    owner = c10::make_intrusive<NumberedNode>(PyRef::borrow(python_node(owner.get())), ids_[number]);
  }
  return c10::SymInt(owner);
}

}  // namespace fastfake
