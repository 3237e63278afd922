// Numbers for Python values, so that a key holds a word in the place of a value.
#pragma once

#include <torch/csrc/python_headers.h>

#include <cstdint>

namespace fastfake {

class ValueNumbers {
 public:
  // A number for a hashable Python value, never 0: the same for equal values while the process runs. The
  // table is never emptied; it is for values of which there are a handful. Needs the GIL.
  int64_t number_of(PyObject* value);

 private:
  PyObject* numbers_ = nullptr;  // a dictionary, made at the first use
};

}  // namespace fastfake
