#include "cache/value_numbers.h"

#include "objects/python_guards.h"

namespace fastfake {

int64_t ValueNumbers::number_of(PyObject* value) {
  if (numbers_ == nullptr) numbers_ = PyRef::steal(PyDict_New()).release();
  PyObject* known = PyDict_GetItemWithError(numbers_, value);
  if (known != nullptr) return PyLong_AsLongLong(known);
  if (PyErr_Occurred() != nullptr) throw python_error();
  const auto number = PyRef::steal(PyLong_FromSsize_t(PyDict_Size(numbers_) + 1));
  if (PyDict_SetItem(numbers_, value, number.get()) != 0) throw python_error();
  return PyLong_AsLongLong(number.get());
}

}  // namespace fastfake
