// Sums, products and comparisons of symbolic numbers.
#include "process_state.h"
#include "symbolic/node_methods.h"

#include <array>
#include <utility>

namespace fastfake {

namespace {

namespace arithmetic {

// SymNode's methods that compute a number from one or two others by their expressions and hints alone. Not
// among them are those that look at ranges (mod) or divisibility (floor, ceil). The last takes a Python
// integer.
constexpr std::array names = {"add",     "sub",  "mul", "eq",      "ne",           "lt",
                              "le",      "gt",   "ge",  "neg",     "int_floordiv", "sym_min",
                              "sym_max", "and_", "or_", "sym_not", "wrap_int"};
constexpr size_t count = names.size();
constexpr bool is_unary(std::string_view name) { return name == "neg" || name == "sym_not"; }
constexpr bool takes_integer(size_t method) { return method + 1 == count; }

std::array<NodeMethod, count>& methods();

// What stands for the second operand; nothing if calls with it are not remembered.
std::optional<uint64_t> word_of(SymbolTable& table, size_t method, PyObject* operand) {
  if (operand == nullptr) return 0;
  if (takes_integer(method)) {
    int overflow = 0;
    if (!PyLong_CheckExact(operand)) return std::nullopt;
    const auto value = PyLong_AsLongLongAndOverflow(operand, &overflow);
    return overflow != 0 ? std::nullopt : std::optional(static_cast<uint64_t>(value));
  }
  if (!is_node(operand)) return std::nullopt;
  const SymbolId id = id_with_hint(table, operand);
  return id == 0 ? std::nullopt : std::optional(id);
}

PyObject* compute(size_t method, PyObject* self, PyObject* operand) {
  return methods()[method].call_torchs(self, &operand, operand == nullptr ? 0 : 1);
}

PyObject* operate(size_t method, PyObject* self, PyObject* operand) {
  HANDLE_TH_ERRORS
  PyRef shape_env;
  SymbolTable* table = table_for_operations(self, shape_env);
  if (table == nullptr) return compute(method, self, operand);
  // A constant does not depend on the node that makes it.
  const SymbolId first = takes_integer(method) ? SymbolId{1} : id_with_hint(*table, self);
  const auto second = word_of(*table, method, operand);
  if (first == 0 || !second) return compute(method, self, operand);
  const NodeOperation operation{method, first, *second};

  const auto mark = mark_of_replacements(shape_env.get());
  if (!mark) return compute(method, self, operand);
  if (const auto known = table->memo().numbers.find(operation, *mark)) {
    return table->make_python_node(*known).release();
  }
  auto result = PyRef::steal(compute(method, self, operand));
  const SymbolId id = is_node(result.get()) ? table->id_of(result.get()) : 0;
  if (id != 0 && mark_of_replacements(shape_env.get()) == mark) {
    table->keep_model(id, result.get());
    table->memo().numbers.insert(operation, id, *mark);
  }
  return result.release();
  END_HANDLE_TH_ERRORS
}

template <size_t method>
PyObject* run(PyObject* self, PyObject* operand) {
  return operate(method, self, operand);
}

template <size_t... method>
std::array<NodeMethod, count> all_methods(std::index_sequence<method...> /*numbers*/) {
  return {
      NodeMethod(PyMethodDef{names.at(method), run<method>, is_unary(names.at(method)) ? METH_NOARGS : METH_O,
                             "Gives what torch's method gives, and remembers it."})...};
}

std::array<NodeMethod, count>& methods() {
  static auto* all = new auto(all_methods(std::make_index_sequence<count>()));
  return *all;
}

}  // namespace arithmetic

}  // namespace

std::span<NodeMethod> arithmetic_methods() { return arithmetic::methods(); }

}  // namespace fastfake
