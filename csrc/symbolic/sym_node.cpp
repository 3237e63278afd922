#include "symbolic/sym_node.h"

#include <typeinfo>

namespace fastfake {

using torch::impl::PythonSymNodeImpl;

namespace {

struct FoundSymbols {
  PyRef all = PyRef::steal(PySet_New(nullptr));
  PyRef standing = PyRef::steal(PySet_New(nullptr));
};

void add(const PyRef& set, PyObject* symbol) {
  if (PySet_Add(set.get(), symbol) != 0) throw python_error();
}

FoundSymbols find_symbols(PyObject* node) {
  const auto& names = sym_node_names();
  FoundSymbols found;
  const auto expression = get_attribute(node, names.expr);
  const auto free = get_attribute_if_any(expression.get(), names.free_symbols);
  if (free.get() == nullptr) return found;  // a Python number
  const auto replacements = get_attribute(get_attribute(node, names.shape_env).get(), names.replacements);
  const auto open = PyRef::steal(PySequence_List(free.get()));
  // The list grows at its end.
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(open.get()); ++i) {
    const auto symbol = PyRef::borrow(PyList_GET_ITEM(open.get(), i));
    const int is_known = PySet_Contains(found.all.get(), symbol.get());
    if (is_known < 0) throw python_error();
    if (is_known != 0) continue;
    add(found.all, symbol.get());
    PyObject* const replacement = PyDict_GetItemWithError(replacements.get(), symbol.get());
    if (replacement == nullptr) {
      if (PyErr_Occurred() != nullptr) throw python_error();
      add(found.standing, symbol.get());
      continue;
    }
    const auto in_replacement = get_attribute(PyRef::borrow(replacement).get(), names.free_symbols);
    PyRef::steal(
        PySequence_InPlaceConcat(open.get(), PyRef::steal(PySequence_List(in_replacement.get())).get()));
  }
  return found;
}

}  // namespace

PyObject* python_node(const c10::SymNodeImpl* node) noexcept {
  if (numbered(node) == nullptr && typeid(*node) != typeid(PythonSymNodeImpl)) return nullptr;
  return static_cast<const PythonSymNodeImpl*>(node)->getPyObj().ptr();
}

const NumberedNode* numbered(const c10::SymNodeImpl* node) noexcept {
  return typeid(*node) == typeid(NumberedNode) ? static_cast<const NumberedNode*>(node) : nullptr;
}

std::optional<bool> constant_value(const c10::SymBool& condition) {
  if (!condition.is_heap_allocated()) return condition.as_bool_unchecked();
  PyObject* node = python_node(condition.toSymNodeImplUnowned());
  if (node == nullptr) return std::nullopt;
  const auto expr = get_attribute(node, sym_node_names().expr);
  // sympy has an object each for the two.
  static PyObject* const sympy = PyRef::steal(PyImport_ImportModule("sympy")).release();
  static PyObject* const sympy_true = PyRef::steal(PyObject_GetAttrString(sympy, "true")).release();
  static PyObject* const sympy_false = PyRef::steal(PyObject_GetAttrString(sympy, "false")).release();
  if (expr.get() == sympy_true || expr.get() == Py_True) return true;
  if (expr.get() == sympy_false || expr.get() == Py_False) return false;
  return std::nullopt;
}

PyRef symbols_of(PyObject* node) { return find_symbols(node).all; }

PyRef symbols_standing_for(PyObject* node) { return find_symbols(node).standing; }

bool is_subset(PyObject* some, PyObject* all) {
  const int verdict = PyObject_RichCompareBool(some, all, Py_LE);
  if (verdict < 0) throw python_error();
  return verdict != 0;
}

const SymNodeNames& sym_node_names() {
  static const auto* names = new SymNodeNames();
  return *names;
}

PyRef get_attribute_if_any(PyObject* object, PyObject* name) {
  PyObject* value = nullptr;
#if PY_VERSION_HEX >= 0x030D0000
  const int found = PyObject_GetOptionalAttr(object, name, &value);
#else
  const int found = _PyObject_LookupAttr(object, name, &value);
#endif
  if (found < 0) throw python_error();
  return found == 0 ? PyRef() : PyRef::steal(value);
}

}  // namespace fastfake
