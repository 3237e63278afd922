#include "objects/attribute_lookup.h"

#include "objects/python_guards.h"

#include <cstring>

namespace fastfake {

namespace {

constexpr auto expected_name = "__torch_function__";

PyObject* getattr(PyObject* self, char* name) {
  static PyObject* const expected = PyUnicode_InternFromString(expected_name);
  const getattrofunc get = Py_TYPE(self)->tp_getattro;
  if (C10_LIKELY(expected != nullptr && std::strcmp(name, expected_name) == 0)) return get(self, expected);
  PyObject* made = PyUnicode_FromString(name);
  if (made == nullptr) return nullptr;
  PyObject* found = get(self, made);
  Py_DECREF(made);
  return found;
}

}  // namespace

void look_up_c_strings_fast(PyTypeObject* type) { type->tp_getattr = getattr; }

}  // namespace fastfake
