#include "symbolic/symbol_table.h"

#include "dispatch/mode_stack.h"
#include "process_state.h"

#include <c10/util/Exception.h>

#include <utility>

namespace fastfake {

namespace {

// Whether equal values of `hint` have equal effects. The hint of a nested integer is a symbol itself, and 0.0
// equals -0.0.
bool is_comparable(PyObject* hint) {
  if (PyFloat_CheckExact(hint)) return PyFloat_AS_DOUBLE(hint) != 0.0;
  return hint == Py_None || PyLong_CheckExact(hint) || PyBool_Check(hint);
}

// Whether torch wants to see each operation on the symbols of `shape_env`; true for what is no ShapeEnv.
bool wants_all_operations(PyObject* shape_env) {
  static PyObject* const recording = PyUnicode_InternFromString("should_record_events");
  static PyObject* const validation = PyUnicode_InternFromString("_translation_validation_enabled");
  for (PyObject* name : {recording, validation}) {
    const auto flag = get_attribute_if_any(shape_env, name);
    if (flag.get() == nullptr || is_true(flag.get())) return true;
  }
  return false;
}

}  // namespace

SymbolTable::SymbolTable(PyObject* shape_env, uint64_t serial)
    : shape_env_(shape_env),
      serial_(serial),
      numbers_(PyRef::steal(PyDict_New())),
      knowledge_(PyRef::borrow(Py_None)),
      scopes_(PyRef::steal(PyDict_New())) {}

SymbolTable::~SymbolTable() { forget_answers(); }

SymbolId SymbolTable::id_of(const NumberedNode& node) const {
  if (node.id() >> bits_of_number != serial_) return 0;
  // A hint can be found later for a node that had none.
  return lacks_hint(node.id()) ? 0 : node.id();
}

SymbolId SymbolTable::id_of(PyObject* node) {
  if (Py_TYPE(node) != process().symbol_tables.node_class()) return 0;
  const auto& names = sym_node_names();
  if (get_attribute(node, names.shape_env).get() != shape_env_) return 0;
  const auto stamp = get_attribute_if_any(node, names.stamp);
  if (stamp.get() != nullptr) {
    const SymbolId id = id_in_stamp(stamp.get());
    if (id != 0 && (!lacks_hint(id) || get_attribute(node, names.hint).get() == Py_None)) return id;
  }
  return number(node);
}

// A stamp is told by its identity: one that came out of a pickle can have the number of another symbol.
SymbolId SymbolTable::id_in_stamp(PyObject* stamp) const {
  if (!PyLong_CheckExact(stamp)) return 0;
  const uint64_t id = PyLong_AsUnsignedLongLongMask(stamp);
  const uint64_t position = (id & 0xffffffff) - 1;
  if (id >> bits_of_number != serial_ || position >= symbols_.size()) return 0;
  return symbols_[position].stamp.get() == stamp ? id : 0;
}

SymbolId SymbolTable::number(PyObject* node) {
  const auto& names = sym_node_names();
  if (is_true(get_attribute(node, names.fx_node).get())) return 0;
  const auto expression = get_attribute(node, names.expr);
  const auto hint = get_attribute(node, names.hint);
  if (!is_comparable(hint.get())) return 0;
  const auto meaning = PyRef::steal(PyTuple_Pack(5, expression.get(), get_attribute(node, names.pytype).get(),
                                                 hint.get(), get_attribute(node, names.constant).get(),
                                                 get_attribute(node, names.is_summation).get()));
  PyObject* known = PyDict_GetItemWithError(numbers_.get(), meaning.get());
  if (known == nullptr && PyErr_Occurred() != nullptr) throw python_error();
  auto stamp = known != nullptr ? PyRef::borrow(known) : PyRef();
  if (known == nullptr) {
    // The id is taken before the dictionary compares, which runs Python code that may number other nodes.
    symbols_.emplace_back().lacks_hint = hint.get() == Py_None;
    const SymbolId id = serial_ << bits_of_number | symbols_.size();
    stamp = PyRef::steal(PyLong_FromUnsignedLongLong(id));
    symbol(id).stamp = PyRef::borrow(stamp.get());
    known = PyDict_SetDefault(numbers_.get(), meaning.get(), stamp.get());
    if (known == nullptr) throw python_error();
    stamp = PyRef::borrow(known);
  }
  if (PyObject_SetAttr(node, names.stamp, stamp.get()) != 0) throw python_error();
  return PyLong_AsUnsignedLongLongMask(stamp.get());
}

void SymbolTable::keep_model(SymbolId id, PyObject* model) {
  if (symbol(id).fields.get() != nullptr) return;
  const auto& names = sym_node_names();
  const auto of_model = get_attribute(model, names.fields);
  auto fields = PyRef::steal(PyDict_Copy(of_model.get()));
  if (PyDict_SetItem(fields.get(), names.shape_env, Py_None) != 0) throw python_error();
  symbol(id).fields = std::move(fields);
}

PyRef SymbolTable::make_python_node(SymbolId id) const {
  PyTypeObject* type = process().symbol_tables.node_class();
  auto node = PyRef::steal(type->tp_alloc(type, 0));
  const auto fields = PyRef::steal(PyDict_Copy(symbol(id).fields.get()));
  if (PyDict_SetItem(fields.get(), sym_node_names().shape_env, shape_env_) != 0 ||
      PyObject_SetAttr(node.get(), sym_node_names().fields, fields.get()) != 0) {
    throw python_error();
  }
  return node;
}

std::optional<Facts> SymbolTable::refresh() {
  const auto facts = Facts::of(shape_env_);
  if (C10_LIKELY(facts == facts_)) return facts;
  facts_.reset();  // until it is clear what has to go
  if (!facts) {
    forget_answers();
    knowledge_ = PyRef::borrow(Py_None);
    return facts;
  }
  const auto news = PyRef::steal(
      PyObject_CallFunctionObjArgs(process().symbol_tables.news(), shape_env_, knowledge_.get(), nullptr));
  TORCH_CHECK_TYPE(PyTuple_Check(news.get()) && PyTuple_GET_SIZE(news.get()) == 2, "expected a pair");
  PyObject* changes = PyTuple_GET_ITEM(news.get(), 1);
  if (changes == Py_None) {
    forget_answers();
  } else {
    forget_answers_about(changes);
  }
  // Only now, so that they are news again if there was an error.
  knowledge_ = PyRef::borrow(PyTuple_GET_ITEM(news.get(), 0));
  facts_ = facts;
  return facts;
}

void SymbolTable::forget_answers() {
  process().cache.drop_from(answers_, [](PyObject* /*scope*/) { return true; });
}

// Something new about several symbols can matter to those answers only that are about all of them.
void SymbolTable::forget_answers_about(PyObject* changes) {
  ska::flat_hash_map<PyObject*, bool> known;
  const auto concerns = [changes](PyObject* scope) {
    const auto iterator = PyRef::steal(PyObject_GetIter(changes));
    while (PyObject* next = PyIter_Next(iterator.get())) {
      if (is_subset(PyRef::steal(next).get(), scope)) return true;
    }
    if (PyErr_Occurred() != nullptr) throw python_error();
    return false;
  };
  // Before anything is dropped, since comparing calls Python.
  std::vector<PyRef> scopes;
  for (const auto& member : answers_.members) {
    if (known.emplace(member.scope.get(), true).second) scopes.push_back(PyRef::borrow(member.scope.get()));
  }
  for (const auto& scope : scopes) known[scope.get()] = concerns(scope.get());
  process().cache.drop_from(answers_, [&known](PyObject* scope) {
    const auto found = known.find(scope);
    return found == known.end() || found->second;
  });
}

PyRef SymbolTable::intern_scope(PyRef scope) {
  PyObject* first = PyDict_SetDefault(scopes_.get(), scope.get(), scope.get());
  if (first == nullptr) throw python_error();
  return PyRef::borrow(first);
}

void SymbolTables::register_python(PyTypeObject* node_class, PyObject* news, PyObject* pre_dispatch_modes,
                                   PyObject* logging) {
  TORCH_CHECK(node_class_ == nullptr, "the class of symbolic nodes is registered already");
  TORCH_CHECK_TYPE(PyList_Check(pre_dispatch_modes) && PyList_GET_SIZE(pre_dispatch_modes) > 0,
                   "the modes that run before dispatch must be in a list");
  Py_INCREF(node_class);
  node_class_ = node_class;
  news_ = Py_NewRef(news);
  pre_dispatch_modes_ = Py_NewRef(pre_dispatch_modes);
  logging_ = Py_NewRef(logging);
}

bool SymbolTables::operations_are_traced() const {
  return PyList_GET_ITEM(pre_dispatch_modes_, 0) != Py_None || is_tracing();
}

bool SymbolTables::operations_are_watched() const {
  static PyObject* const structured = PyUnicode_InternFromString("GET_DTRACE_STRUCTURED");
  return operations_are_traced() || is_true(get_attribute(logging_, structured).get());
}

PyObject* SymbolTables::forget(PyObject* address, PyObject* /*weak_reference*/) {
  auto& tables = process().symbol_tables.tables_;
  const auto found = tables.find(static_cast<PyObject*>(PyLong_AsVoidPtr(address)));
  if (found != tables.end()) {
    const Kept kept = std::move(found->second);  // dies when the tables are consistent again
    tables.erase(found);
  }
  Py_RETURN_NONE;
}

SymbolTable* SymbolTables::of(PyObject* shape_env) {
  const auto found = tables_.find(shape_env);
  if (found != tables_.end()) return found->second.table.get();
  if (wants_all_operations(shape_env)) return nullptr;
  static PyMethodDef callback = {"forget", &SymbolTables::forget, METH_O, nullptr};
  const auto address = PyRef::steal(PyLong_FromVoidPtr(shape_env));
  const auto forget_it = PyRef::steal(PyCFunction_New(&callback, address.get()));
  auto weak_reference = PyRef::steal(PyWeakref_NewRef(shape_env, forget_it.get()));
  auto table = std::make_unique<SymbolTable>(shape_env, ++last_serial_);
  SymbolTable* made = table.get();
  tables_.emplace(shape_env, Kept{std::move(table), std::move(weak_reference)});
  return made;
}

}  // namespace fastfake
