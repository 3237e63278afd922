#include "symbolic/sym_node.h"

#include <typeinfo>

namespace fastfake {

using torch::impl::PythonSymNodeImpl;

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

PyRef free_symbols_of(PyObject* node, Expression expression) {
  static PyObject* const replaced = PyUnicode_InternFromString("expr");
  static PyObject* const name = PyUnicode_InternFromString("free_symbols");
  const auto of_node =
      get_attribute(node, expression == Expression::AsMade ? sym_node_names().expr : replaced);
  auto found = get_attribute_if_any(of_node.get(), name);
  return found.get() == nullptr ? PyRef::steal(PySet_New(nullptr)) : std::move(found);  // a Python number
}

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
