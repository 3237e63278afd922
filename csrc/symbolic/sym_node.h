// torch's symbolic numbers as C++ sees them.
//
// A SymInt holds a c10::SymNodeImpl, and that a Python SymNode. The C++ object is made anew whenever the
// number goes through Python; the Python object stays, and torch's tracers tell numbers apart by it. So here,
// too, a node is the Python object.
#pragma once

#include "objects/python_guards.h"
#include "symbolic/symbol_id.h"

#include <c10/core/SymBool.h>
#include <c10/core/SymNodeImpl.h>
#include <torch/csrc/python_headers.h>
#include <torch/csrc/utils/python_symnode.h>

#include <cstdint>
#include <optional>

namespace fastfake {

// The node of an integer whose SymbolId is known. What torch's C++ code asks every node about, and would get
// an answer from Python, it answers itself.
class NumberedNode final : public torch::impl::PythonSymNodeImpl {
 public:
  NumberedNode(PyRef node, SymbolId id)
      : PythonSymNodeImpl(py::reinterpret_steal<py::object>(node.release())), id_(id) {}

  SymbolId id() const noexcept { return id_; }

  bool is_int() override { return true; }
  bool is_float() override { return false; }
  bool is_bool() override { return false; }
  bool is_nested_int() const override { return false; }
  c10::SymNode clone() override { return c10::SymNode::reclaim_copy(this); }

 private:
  SymbolId id_;
};

// The Python SymNode in `node`, borrowed; null if torch's C++ code made the node, as it does for nested
// integers.
PyObject* python_node(const c10::SymNodeImpl* node) noexcept;

// `node` as a NumberedNode, or null.
const NumberedNode* numbered(const c10::SymNodeImpl* node) noexcept;

// The value of `condition` where that is the same for all values of the symbols.
std::optional<bool> constant_value(const c10::SymBool& condition);

// The symbols in the expression of the Python SymNode `node`, and those that took their place: a set. Calls
// Python. Reads the ShapeEnv's replacements without asking it to make them: torch writes down those that it
// made, with the range that the symbol has at that time.
PyRef symbols_of(PyObject* node);

// Of these symbols only those whose place none took.
PyRef symbols_standing_for(PyObject* node);

// Whether the set `some` has no element that the set `all` lacks. Calls Python.
bool is_subset(PyObject* some, PyObject* all);

// The names of a SymNode's attributes, and of the one that is added here.
struct SymNodeNames {
  PyObject* expr = PyUnicode_InternFromString("_expr");
  PyObject* pytype = PyUnicode_InternFromString("pytype");
  PyObject* hint = PyUnicode_InternFromString("_hint");
  PyObject* constant = PyUnicode_InternFromString("constant");
  PyObject* fx_node = PyUnicode_InternFromString("fx_node");
  PyObject* is_summation = PyUnicode_InternFromString("_optimized_summation");
  PyObject* shape_env = PyUnicode_InternFromString("shape_env");
  PyObject* free_symbols = PyUnicode_InternFromString("free_symbols");
  PyObject* replacements = PyUnicode_InternFromString("replacements");
  PyObject* fields = PyUnicode_InternFromString("__dict__");
  PyObject* stamp = PyUnicode_InternFromString("_fastfake_symbol");
};
const SymNodeNames& sym_node_names();

inline PyRef get_attribute(PyObject* object, PyObject* name) {
  return PyRef::steal(PyObject_GetAttr(object, name));
}

// The attribute, or a null reference if there is none.
PyRef get_attribute_if_any(PyObject* object, PyObject* name);

}  // namespace fastfake
