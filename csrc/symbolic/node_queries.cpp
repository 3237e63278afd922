// What torch's C++ code asks each symbolic number about. Nothing is remembered: an attribute tells.
#include "process_state.h"
#include "symbolic/node_methods.h"

#include <array>

namespace fastfake {

namespace {

namespace queries {

enum Query : uint8_t { IsInt, IsFloat, IsBool, HasHint, Clone, MaybeAsInt, Expr, count };

std::array<NodeMethod, count>& methods();

template <PyTypeObject* type>
PyObject* has_type(PyObject* self, PyObject* /*none*/) {
  HANDLE_TH_ERRORS
  const auto pytype = get_attribute(self, sym_node_names().pytype);
  return PyBool_FromLong(pytype.get() == reinterpret_cast<PyObject*>(type) ? 1 : 0);
  END_HANDLE_TH_ERRORS
}

PyObject* has_hint(PyObject* self, PyObject* /*none*/) {
  HANDLE_TH_ERRORS
  return PyBool_FromLong(get_attribute(self, sym_node_names().hint).get() != Py_None ? 1 : 0);
  END_HANDLE_TH_ERRORS
}

PyObject* clone(PyObject* self, PyObject* /*none*/) { return Py_NewRef(self); }

// A number as long as no expression of symbols equals one.
PyObject* maybe_as_int(PyObject* self, PyObject* /*none*/) {
  HANDLE_TH_ERRORS
  PyRef shape_env;
  SymbolTable* table = table_for_operations(self, shape_env);
  const SymbolId id = table == nullptr ? 0 : table->id_of(self);
  const auto mark = id == 0 ? std::nullopt : mark_of_replacements(shape_env.get());
  if (!mark) return methods()[MaybeAsInt].call_torchs(self);
  constexpr uint64_t method = 1000;  // beside those of arithmetic
  if (table->memo().numbers.find({method, id}, *mark)) Py_RETURN_NONE;
  auto result = PyRef::steal(methods()[MaybeAsInt].call_torchs(self));
  if (result.get() == Py_None && mark_of_replacements(shape_env.get()) == mark) {
    table->memo().numbers.insert({method, id}, 1, *mark);
  }
  return result.release();
  END_HANDLE_TH_ERRORS
}

// torch's property first asks whether the expression is a number. That takes long, and it makes no difference
// where nothing is replaced or the result of replacing is at hand.
PyObject* expr(PyObject* self, void* /*closure*/) {
  HANDLE_TH_ERRORS
  static PyObject* const version_name = PyUnicode_InternFromString("_replacements_version_counter");
  static PyObject* const cached_name = PyUnicode_InternFromString("_expr_cache");
  static PyObject* const cached_version_name = PyUnicode_InternFromString("_expr_ver");
  const auto& names = sym_node_names();
  const auto shape_env = get_attribute(self, names.shape_env);
  if (shape_env.get() != Py_None) {
    const auto version = get_attribute_if_any(shape_env.get(), version_name);
    if (version.get() != nullptr && PyLong_CheckExact(version.get())) {
      const auto number = PyLong_AsUnsignedLongLongMask(version.get());
      if (number == 0) return get_attribute(self, names.expr).release();
      const auto cached_version = get_attribute(self, cached_version_name);
      if (PyLong_CheckExact(cached_version.get()) &&
          PyLong_AsUnsignedLongLongMask(cached_version.get()) == number) {
        auto cached = get_attribute(self, cached_name);
        if (cached.get() != Py_None) return cached.release();
      }
    }
  }
  return methods()[Expr].get_torchs(self);
  END_HANDLE_TH_ERRORS
}

std::array<NodeMethod, count>& methods() {
  static auto* all = new std::array<NodeMethod, count>{
      NodeMethod(PyMethodDef{"is_int", has_type<&PyLong_Type>, METH_NOARGS, "Whether it is an integer."}),
      NodeMethod(PyMethodDef{"is_float", has_type<&PyFloat_Type>, METH_NOARGS, "Whether it is a float."}),
      NodeMethod(PyMethodDef{"is_bool", has_type<&PyBool_Type>, METH_NOARGS, "Whether it is a condition."}),
      NodeMethod(PyMethodDef{"has_hint", has_hint, METH_NOARGS, "Whether there is a hint."}),
      NodeMethod(PyMethodDef{"clone", clone, METH_NOARGS, "The node itself."}),
      NodeMethod(PyMethodDef{"maybe_as_int", maybe_as_int, METH_NOARGS, "The integer that it is, or None."}),
      NodeMethod(PyGetSetDef{"expr", expr, nullptr, "The expression, with replacements made.", nullptr}),
  };
  return *all;
}

}  // namespace queries

}  // namespace

std::span<NodeMethod> query_methods() { return queries::methods(); }

}  // namespace fastfake
