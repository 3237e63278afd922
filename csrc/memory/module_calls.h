// Which module is running, in forward passes and in the backward passes of these.
//
// Modules tell when they are called and when they return. A node of the autograd graph has a number from a
// counter, so that the numbers at which modules were called and returned tell in which module a node was
// made.
#pragma once

#include "objects/python_guards.h"

#include <c10/util/flat_hash_map.h>
#include <torch/csrc/python_headers.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace fastfake {

// The GIL guards it.
class ModuleCalls {
 public:
  // `name_module(module)` gives the name of a module that is called for the first time. `root_called(module,
  // args)` is told of each call of a module while none is running, recomputations aside.
  void start(PyObject* name_module, PyObject* root_called);
  // Forgets the modules, but not their names.
  void stop();

  void enter(PyObject* module, PyObject* args);
  void leave(PyObject* module);

  // Calls `name_module` for one that has not been called.
  uint32_t number_of(PyObject* module);

  // How many modules are running, each inside of the one before.
  size_t depth() const { return running_.size(); }
  // The number of the innermost one; 0 for none.
  uint32_t innermost() const { return running_.empty() ? 0 : running_.back(); }
  // The number of the module in which the node of this number was made.
  uint32_t of_node(uint64_t sequence_number) const;

  // By number.
  const std::vector<std::string>& names() const { return names_; }

 private:
  void remember_change();

  struct Known {
    PyRef module;
    uint32_t number;
  };
  PyRef name_module_;
  PyRef root_called_;
  ska::flat_hash_map<PyObject*, Known> known_;
  std::vector<std::string> names_{""};
  std::vector<uint32_t> running_;
  // From which node on which module was the innermost one.
  std::vector<std::pair<uint64_t, uint32_t>> changes_;
};

}  // namespace fastfake
