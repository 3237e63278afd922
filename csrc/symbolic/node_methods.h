// Methods in the place of those of torch's SymNode.
//
// torch computes each sum, product, comparison and decision on symbolic numbers in Python, which is what is
// left of a dynamic compilation when fake tensors cost nothing. Between two changes of a ShapeEnv equal
// operations on equal numbers have equal results; so the methods here look results up, and make a new node of
// what they find, as torch does. Where they find nothing, and while operations are traced or logged, they
// call torch's.
#pragma once

#include "process_state.h"

#include <torch/csrc/python_headers.h>

#include <cstdint>
#include <optional>
#include <span>

namespace fastfake {

// One method, or property, that native code has in the place of torch's.
class NodeMethod {
 public:
  explicit NodeMethod(PyMethodDef definition) : method_(definition) {}
  explicit NodeMethod(PyGetSetDef definition) : property_(definition) {}

  // Puts it in torch's place, or torch's back unless somebody replaced it meanwhile. Idempotent.
  void put_in_place(PyTypeObject* node_class);
  void put_torchs_back(PyTypeObject* node_class);

  // What torch's method gives. A new reference, or null with a Python error.
  PyObject* call_torchs(PyObject* self, PyObject* const* arguments = nullptr, size_t count = 0) const;
  PyObject* get_torchs(PyObject* self) const;  // of a property

 private:
  const char* name() const { return method_.ml_name != nullptr ? method_.ml_name : property_.name; }

  PyMethodDef method_{};
  PyGetSetDef property_{};
  PyObject* native_ = nullptr;
  PyObject* torchs_ = nullptr;
  bool in_place_ = false;
};

std::span<NodeMethod> arithmetic_methods();
std::span<NodeMethod> decision_methods();
std::span<NodeMethod> query_methods();

// Puts all of them in place, or torch's back. Need the GIL.
void install_node_methods();
void remove_node_methods();

inline bool is_node(PyObject* object) { return Py_TYPE(object) == process().symbol_tables.node_class(); }

// The table of the ShapeEnv of `node` if operations on it may be looked up: nobody traces or logs them.
// `keep` gets a reference to the ShapeEnv, which keeps the table.
SymbolTable* table_for_operations(PyObject* node, PyRef& keep);

// A mark of the replacements that `shape_env` knows, which is another one when they change; nothing if it
// does not keep them as torch's class does.
std::optional<uint64_t> mark_of_replacements(PyObject* shape_env);

// The id of `node` if it has a hint, else 0: without one, results can change when a hint is found.
SymbolId id_with_hint(SymbolTable& table, PyObject* node);

}  // namespace fastfake
