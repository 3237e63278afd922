#include "symbolic/facts.h"

#include "objects/dictionary_version.h"
#include "objects/python_guards.h"
#include "symbolic/sym_node.h"

#include <c10/util/irange.h>

namespace fastfake {

namespace {

// How an attribute tells that it changed.
enum class Sign : uint8_t { Version, Size, Value, Identity, Off };

struct Watched {
  const char* name;
  Sign sign;
};

// The attributes of a ShapeEnv that its answers depend on.
constexpr std::array watched = {
    Watched{"replacements", Sign::Version},
    Watched{"axioms", Sign::Version},
    Watched{"var_to_range", Sign::Version},
    Watched{"real_tensor_prop_unbacked_vals", Sign::Version},
    Watched{"guards", Sign::Size},
    Watched{"divisible", Sign::Size},
    Watched{"size_like", Sign::Size},
    Watched{"num_deferred_runtime_asserts", Sign::Value},
    Watched{"settings", Sign::Identity},
    // With these torch has to see each operation on symbols.
    Watched{"should_record_events", Sign::Off},
    Watched{"_translation_validation_enabled", Sign::Off},
};

std::optional<uint64_t> read(PyObject* value, Sign sign) {
  switch (sign) {
    case Sign::Version:
      if (!PyDict_Check(value)) return std::nullopt;
      return mark_of(value);
    case Sign::Size:
      if (PyList_Check(value)) return static_cast<uint64_t>(PyList_GET_SIZE(value));
      if (PyAnySet_Check(value)) return static_cast<uint64_t>(PySet_GET_SIZE(value));
      return std::nullopt;
    case Sign::Value:
      if (!PyLong_CheckExact(value)) return std::nullopt;
      return PyLong_AsUnsignedLongLongMask(value);
    case Sign::Off:
      return value == Py_False ? std::optional<uint64_t>(0) : std::nullopt;
    case Sign::Identity:
      break;
  }
  return reinterpret_cast<uintptr_t>(value);
}

}  // namespace

std::optional<Facts> Facts::of(PyObject* shape_env) {
  static_assert(watched.size() == count);
  static const auto names = [] {
    std::array<PyObject*, count> interned{};
    for (const auto i : c10::irange(count)) interned.at(i) = PyUnicode_InternFromString(watched.at(i).name);
    return interned;
  }();
  Facts facts;
  for (const auto i : c10::irange(count)) {
    const auto value = get_attribute_if_any(shape_env, names[i]);
    if (value.get() == nullptr) return std::nullopt;
    const auto word = read(value.get(), watched[i].sign);
    if (!word) return std::nullopt;
    facts.words_[i] = *word;
  }
  return facts;
}

bool learns_nothing(PyObject* shape_env) {
  static PyObject* const suppressed_name = PyUnicode_InternFromString("_suppress_guards_tls");
  static PyObject* const frozen_name = PyUnicode_InternFromString("frozen");
  const auto suppressed = PyRef::steal(PyObject_CallMethodNoArgs(shape_env, suppressed_name));
  return is_true(suppressed.get()) || is_true(get_attribute(shape_env, frozen_name).get());
}

}  // namespace fastfake
