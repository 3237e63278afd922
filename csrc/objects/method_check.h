// Whether a class still has the methods that native code stands in for.
#pragma once

#include "objects/dictionary_version.h"
#include "objects/python_guards.h"

#include <torch/csrc/python_headers.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace fastfake {

// CPython changes a type's version tag whenever an attribute of the type or of a base changes, so one
// comparison notices overrides and monkeypatches alike. Needs the GIL.
class MethodCheck {
 public:
  // Remembers the methods that `type` has now. `second` may be null.
  void expect(PyTypeObject* type, const char* first, const char* second) {
    names_ = {PyRef::steal(PyUnicode_InternFromString(first)).release(),
              second == nullptr ? nullptr : PyRef::steal(PyUnicode_InternFromString(second)).release()};
    for (size_t i = 0; i < names_.size(); ++i) {
      methods_.at(i) = names_.at(i) == nullptr ? nullptr : Py_XNewRef(_PyType_Lookup(type, names_.at(i)));
    }
    checked_type_ = nullptr;
  }

  bool holds_for(PyTypeObject* type) noexcept {
    if (type == checked_type_ && type->tp_version_tag == checked_version_ && checked_version_ != 0) {
      return verdict_;
    }
    return look_up(type);
  }

  // Whether `instance` has attributes of its own in the place of the methods, however they got there.
  bool hidden_by(PyObject* instance) noexcept {
    PyObject** attributes = _PyObject_GetDictPtr(instance);
    if (attributes == nullptr || *attributes == nullptr) return false;
    const uint64_t version = version_of(*attributes);
    if (version != unknown_version && version == version_without_) return false;
    if (is_among(*attributes)) return true;
    version_without_ = version;
    return false;
  }

 private:
  bool is_among(PyObject* attributes) const noexcept {
    for (PyObject* name : names_) {
      if (name == nullptr) continue;
      const int found = PyDict_Contains(attributes, name);
      if (found < 0) PyErr_Clear();  // whoever looks the method up meets the error again
      if (found != 0) return true;
    }
    return false;
  }

  bool look_up(PyTypeObject* type) noexcept {
    bool same = true;
    for (size_t i = 0; i < names_.size(); ++i) {
      same = same && (names_[i] == nullptr || _PyType_Lookup(type, names_[i]) == methods_[i]);
    }
    checked_type_ = type;
    checked_version_ = type->tp_version_tag;  // assigned by the lookup above
    verdict_ = same;
    return same;
  }

  std::array<PyObject*, 2> names_{};
  std::array<PyObject*, 2> methods_{};
  PyTypeObject* checked_type_ = nullptr;
  unsigned int checked_version_ = 0;
  bool verdict_ = false;
  uint64_t version_without_ = unknown_version;  // of a dictionary that has none of the names
};

}  // namespace fastfake
