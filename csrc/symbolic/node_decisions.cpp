// Whether conditions on symbolic numbers hold.
#include "process_state.h"
#include "symbolic/node_methods.h"

#include <array>
#include <utility>

namespace fastfake {

namespace {

namespace decisions {

// SymNode's methods that tell whether a condition holds, and may add a guard or an assertion for it. Each
// takes the file and line of the question.
constexpr std::array names = {"guard_bool",           "guard_or_false",        "guard_or_true",
                              "guard_size_oblivious", "statically_known_true", "expect_true"};
constexpr size_t count = names.size();

std::array<NodeMethod, count>& methods();

// A decision that taught the ShapeEnv nothing teaches it nothing another time either, as long as the ShapeEnv
// knows the same.
PyObject* decide(size_t method, PyObject* self, PyObject* const* arguments, Py_ssize_t given) {
  HANDLE_TH_ERRORS
  const auto compute = [&] {
    return methods()[method].call_torchs(self, arguments, static_cast<size_t>(given));
  };
  PyRef shape_env;
  SymbolTable* table = table_for_operations(self, shape_env);
  const SymbolId id = table == nullptr ? 0 : id_with_hint(*table, self);
  // Some of torch's settings decide too.
  const uint64_t settings = process().python_settings.number();
  if (id == 0 || settings == PythonSettings::not_comparable) return compute();
  const auto facts = Facts::of(shape_env.get());
  if (!facts) return compute();
  const NodeOperation operation{method, id, settings};
  if (const auto known = table->memo().decisions.find(operation, *facts)) return PyBool_FromLong(*known != 0);
  auto result = PyRef::steal(compute());
  if (PyBool_Check(result.get()) && Facts::of(shape_env.get()) == facts && !learns_nothing(shape_env.get())) {
    table->memo().decisions.insert(operation, static_cast<uint64_t>(result.get() == Py_True), *facts);
  }
  return result.release();
  END_HANDLE_TH_ERRORS
}

template <size_t method>
PyObject* run(PyObject* self, PyObject* const* arguments, Py_ssize_t given) {
  return decide(method, self, arguments, given);
}

template <size_t... method>
std::array<NodeMethod, count> all_methods(std::index_sequence<method...> /*numbers*/) {
  return {NodeMethod(
      PyMethodDef{names.at(method), reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(run<method>)),
                  METH_FASTCALL, "Decides as torch's method does, and remembers the answer."})...};
}

std::array<NodeMethod, count>& methods() {
  static auto* all = new auto(all_methods(std::make_index_sequence<count>()));
  return *all;
}

}  // namespace decisions

}  // namespace

std::span<NodeMethod> decision_methods() { return decisions::methods(); }

}  // namespace fastfake
