#include "symbolic/node_methods.h"

#include "objects/dictionary_version.h"

#include <array>

namespace fastfake {

void NodeMethod::put_in_place(PyTypeObject* node_class) {
  if (in_place_) return;
  if (native_ == nullptr) {
    native_ = PyRef::steal(method_.ml_name != nullptr ? PyDescr_NewMethod(node_class, &method_)
                                                      : PyDescr_NewGetSet(node_class, &property_))
                  .release();
  }
  const auto key = PyRef::steal(PyUnicode_InternFromString(name()));
  PyObject* torchs = PyDict_GetItemWithError(node_class->tp_dict, key.get());
  if (torchs == nullptr) {
    if (PyErr_Occurred() == nullptr)
      PyErr_Format(PyExc_AttributeError, "SymNode has no attribute %s", name());
    throw python_error();
  }
  if (torchs != native_) Py_XSETREF(torchs_, Py_NewRef(torchs));
  if (PyObject_SetAttr(reinterpret_cast<PyObject*>(node_class), key.get(), native_) != 0)
    throw python_error();
  in_place_ = true;
}

void NodeMethod::put_torchs_back(PyTypeObject* node_class) {
  if (!in_place_) return;
  const auto key = PyRef::steal(PyUnicode_InternFromString(name()));
  PyObject* present = PyDict_GetItemWithError(node_class->tp_dict, key.get());
  if (present == nullptr && PyErr_Occurred() != nullptr) throw python_error();
  if (present == native_ &&
      PyObject_SetAttr(reinterpret_cast<PyObject*>(node_class), key.get(), torchs_) != 0) {
    throw python_error();
  }
  in_place_ = false;
}

PyObject* NodeMethod::call_torchs(PyObject* self, PyObject* const* arguments, size_t count) const {
  constexpr size_t most = 3;
  std::array<PyObject*, most + 1> all = {self};
  TORCH_CHECK_TYPE(count <= most, "too many arguments for SymNode.", name());
  for (size_t i = 0; i < count; ++i) all.at(i + 1) = arguments[i];
  return PyObject_Vectorcall(torchs_, all.data(), count + 1, nullptr);
}

PyObject* NodeMethod::get_torchs(PyObject* self) const {
  return Py_TYPE(torchs_)->tp_descr_get(torchs_, self, reinterpret_cast<PyObject*>(Py_TYPE(self)));
}

SymbolTable* table_for_operations(PyObject* node, PyRef& keep) {
  auto& tables = process().symbol_tables;
  if (!is_node(node) || tables.operations_are_watched()) return nullptr;
  keep = get_attribute(node, sym_node_names().shape_env);
  return keep.get() == Py_None ? nullptr : tables.of(keep.get());
}

std::optional<uint64_t> mark_of_replacements(PyObject* shape_env) {
  static PyObject* const name = PyUnicode_InternFromString("replacements");
  const auto replacements = get_attribute(shape_env, name);
  return PyDict_Check(replacements.get()) ? std::optional(mark_of(replacements.get())) : std::nullopt;
}

SymbolId id_with_hint(SymbolTable& table, PyObject* node) {
  const SymbolId id = table.id_of(node);
  return id == 0 || table.lacks_hint(id) ? 0 : id;
}

void install_node_methods() {
  PyTypeObject* type = process().symbol_tables.node_class();
  TORCH_CHECK(type != nullptr, "the class of symbolic nodes is not registered");
  for (const auto methods : {arithmetic_methods(), decision_methods(), query_methods()}) {
    for (auto& method : methods) method.put_in_place(type);
  }
}

void remove_node_methods() {
  PyTypeObject* type = process().symbol_tables.node_class();
  if (type == nullptr) return;
  for (const auto methods : {arithmetic_methods(), decision_methods(), query_methods()}) {
    for (auto& method : methods) method.put_torchs_back(type);
  }
}

}  // namespace fastfake
