#include "cache/settings.h"

#include "cache/kept.h"
#include "cache/words.h"
#include "objects/python_guards.h"
#include "process_state.h"
#include "torch_version.h"

#include <ATen/Context.h>
#include <c10/core/AutogradState.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/Exception.h>
#include <c10/util/irange.h>
#include <torch/csrc/tensor/python_tensor.h>

#include <utility>

namespace fastfake {

namespace {

// With it, operators inside a meta kernel or decomposition run their Python implementations.
bool python_dispatcher_enabled() {
  return c10::impl::tls_local_dispatch_key_set().included_.has(c10::DispatchKey::PythonDispatcher);
}

// Equal values of these kinds have the same effect, whatever reads them. Others may not even be hashable.
bool is_plain(PyObject* value) {
  return value == Py_None || PyBool_Check(value) || PyLong_CheckExact(value) || PyUnicode_CheckExact(value);
}

}  // namespace

void PythonSettings::watch(PyObject* context_variables) {
  TORCH_CHECK(count_ == 0, "settings are watched already");
  const auto count = static_cast<size_t>(PyTuple_GET_SIZE(context_variables));
  TORCH_CHECK_VALUE(count <= most, "at most ", most, " settings can be watched");
  for (const auto i : c10::irange(count)) {
    PyObject* variable = PyTuple_GET_ITEM(context_variables, static_cast<Py_ssize_t>(i));
    TORCH_CHECK_TYPE(PyContextVar_CheckExact(variable), "a setting must be held by a context variable");
    variables_.at(i) = Py_NewRef(variable);
  }
  count_ = count;
}

uint64_t PythonSettings::look_up() {
  PyRef reference;
  if (PyObject* holder = values_of_context_variables()) {
    const auto keep = PyRef::borrow(holder);  // Python code may run before the reference exists
    reference = PyRef::steal(PyWeakref_NewRef(holder, nullptr));
  }
  if (!values_are_present()) return renumber(std::move(reference));
  if (reference.get() != nullptr && refers_to_present_values(reference.get())) {
    Py_XSETREF(read_from_, reference.release());
  }
  return number_;
}

bool PythonSettings::values_are_present() const {
  for (size_t i = 0; i < count_; ++i) {
    if (value_of(variables_[i]).get() != values_[i]) return false;
  }
  return true;
}

// `reference` is null or to what held the values of all variables a moment ago.
uint64_t PythonSettings::renumber(PyRef reference) {
  const auto values = PyRef::steal(PyTuple_New(static_cast<Py_ssize_t>(count_)));
  bool comparable = true;
  for (const auto i : c10::irange(count_)) {
    auto value = value_of(variables_[i]);
    comparable = comparable && is_plain(value.get());
    PyTuple_SET_ITEM(values.get(), static_cast<Py_ssize_t>(i), value.release());
  }
  // No Python code ran since the first value was read.
  if (reference.get() != nullptr && !refers_to_present_values(reference.get())) reference = PyRef();
  const auto number =
      comparable ? static_cast<uint64_t>(process().value_numbers.number_of(values.get())) : not_comparable;
  // Values and number change together, and before an old value dies, which can run Python code.
  auto old = values_;
  for (const auto i : c10::irange(count_)) {
    values_.at(i) = Py_NewRef(PyTuple_GET_ITEM(values.get(), static_cast<Py_ssize_t>(i)));
  }
  number_ = number;
  Py_XSETREF(read_from_, reference.release());
  for (PyObject* value : old) Py_XDECREF(value);
  return number;
}

uint64_t thread_settings() {
  const auto& context = at::globalContext();
  const auto& autograd = c10::AutogradState::get_tls_state();
  const uint64_t flags =
      static_cast<uint64_t>(kept("inference mode", autograd.get_inference_mode())) |
      static_cast<uint64_t>(kept("grad mode", autograd.get_grad_mode())) << 1 |
      static_cast<uint64_t>(kept("determinism", context.deterministicAlgorithms())) << 2 |
      static_cast<uint64_t>(kept("determinism's warnings", context.deterministicAlgorithmsWarnOnly())) << 3 |
      static_cast<uint64_t>(kept("cuDNN", context.userEnabledCuDNN())) << 4 |
      static_cast<uint64_t>(kept("MKLDNN", context.userEnabledMkldnn())) << 5 |
      static_cast<uint64_t>(kept("Python dispatcher", python_dispatcher_enabled())) << 6;
  const auto default_dtype = static_cast<uint64_t>(c10::get_default_dtype_as_scalartype());
  const auto default_device = device_bits(torch::tensors::get_default_device());
  return flags | kept("default dtype", default_dtype) << 8 | kept("default device", default_device) << 16;
}

uint64_t attention_settings() {
  auto& context = at::globalContext();
  uint64_t bits = static_cast<uint64_t>(context.userEnabledFlashSDP()) |
                  static_cast<uint64_t>(context.userEnabledFA3SDP()) << 1 |
                  static_cast<uint64_t>(context.userEnabledMemEfficientSDP()) << 2 |
                  static_cast<uint64_t>(context.userEnabledMathSDP()) << 3 |
                  static_cast<uint64_t>(context.userEnabledCuDNNSDP()) << 4 |
                  static_cast<uint64_t>(context.userEnabledOverrideableSDP()) << 5;
#if FASTFAKE_TORCH_AT_LEAST(2, 15)
  bits |= static_cast<uint64_t>(context.userEnabledFA4SDP()) << 6;
#endif
  size_t shift = 8;
  for (const auto backend : context.sDPPriorityOrder()) {
    bits |= (static_cast<uint64_t>(backend) & 0xf) << shift;
    shift += 4;
  }
  return kept("attention backends", bits);
}

}  // namespace fastfake
