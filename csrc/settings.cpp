#include "settings.h"

#include "python_guards.h"

#include <ATen/Context.h>
#include <c10/util/Exception.h>
#include <c10/util/irange.h>

#include <array>

namespace fastfake {

namespace {

constexpr size_t most_settings = 4;

// The variables and their values when last read, all kept alive; the number belongs to these values. Values
// seldom change, so that reading them is comparing pointers.
struct Settings {
  size_t count = 0;
  std::array<PyObject*, most_settings> variables{};
  std::array<PyObject*, most_settings> values{};
  uint64_t number = 0;
};

Settings settings;

void renumber() {
  auto values = PyRef::steal(PyTuple_New(static_cast<Py_ssize_t>(settings.count)));
  for (const auto i : c10::irange(settings.count)) {
    PyTuple_SET_ITEM(values.get(), static_cast<Py_ssize_t>(i), Py_NewRef(settings.values.at(i)));
  }
  settings.number = static_cast<uint64_t>(number_of(values.get()));
}

}  // namespace

void watch_settings(PyObject* context_variables) {
  const auto count = static_cast<size_t>(PyTuple_GET_SIZE(context_variables));
  TORCH_CHECK_VALUE(count <= most_settings, "at most ", most_settings, " settings can be watched");
  for (const auto i : c10::irange(count)) {
    PyObject* variable = PyTuple_GET_ITEM(context_variables, static_cast<Py_ssize_t>(i));
    TORCH_CHECK_TYPE(PyContextVar_CheckExact(variable), "a setting must be held by a context variable");
    settings.variables.at(i) = Py_NewRef(variable);
  }
  settings.count = count;
}

uint64_t settings_number() {
  bool changed = false;
  for (size_t i = 0; i < settings.count; ++i) {
    PyObject* value = nullptr;
    if (PyContextVar_Get(settings.variables[i], Py_None, &value) != 0) throw python_error();
    changed = changed || value != settings.values[i];
    Py_XSETREF(settings.values[i], value);
  }
  if (C10_UNLIKELY(changed)) renumber();
  return settings.number;
}

int64_t number_of(PyObject* value) {
  static PyObject* numbers = PyRef::steal(PyDict_New()).release();
  PyObject* known = PyDict_GetItemWithError(numbers, value);
  if (known == nullptr) {
    if (PyErr_Occurred() != nullptr) throw python_error();
    auto number = PyRef::steal(PyLong_FromSsize_t(PyDict_Size(numbers) + 1));
    if (PyDict_SetItem(numbers, value, number.get()) != 0) throw python_error();
    return PyLong_AsLongLong(number.get());
  }
  return PyLong_AsLongLong(known);
}

uint64_t attention_backend_bits() {
  auto& context = at::globalContext();
  uint64_t bits = static_cast<uint64_t>(context.userEnabledFlashSDP()) |
                  static_cast<uint64_t>(context.userEnabledFA3SDP()) << 1 |
                  static_cast<uint64_t>(context.userEnabledMemEfficientSDP()) << 2 |
                  static_cast<uint64_t>(context.userEnabledMathSDP()) << 3 |
                  static_cast<uint64_t>(context.userEnabledCuDNNSDP()) << 4 |
                  static_cast<uint64_t>(context.userEnabledOverrideableSDP()) << 5;
  size_t shift = 8;
  for (const auto backend : context.sDPPriorityOrder()) {
    bits |= (static_cast<uint64_t>(backend) & 0xf) << shift;
    shift += 4;
  }
  return bits;
}

}  // namespace fastfake
