// Which line of the user's program is running: the innermost one whose file is none of torch's or fastfake's.
#pragma once

#include "objects/python_guards.h"

#include <c10/util/flat_hash_map.h>
#include <torch/csrc/python_headers.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace fastfake {

// The GIL guards it.
class PythonLines {
 public:
  // `skipped` are the beginnings of the names of files that are not the user's.
  void start(std::vector<std::string> skipped);
  // Forgets the code, but not the lines.
  void stop();

  // The number of the line that is running on this thread; 0 if none is the user's.
  uint32_t current();

  // By number, as "file.py:12 in function".
  const std::vector<std::string>& texts() const { return texts_; }

 private:
  struct KnownCode {
    PyRef code;
    bool is_users;
  };
  bool is_users(PyObject* code);
  uint32_t number_of(PyObject* code, PyObject* frame);

  std::vector<std::string> skipped_;
  ska::flat_hash_map<PyObject*, KnownCode> known_;
  std::map<std::pair<PyObject*, int>, uint32_t> numbers_;
  std::vector<std::string> texts_{""};
};

}  // namespace fastfake
