// Which module is running, in forward passes and in the backward passes of these.
//
// Modules tell when they are called and when they return. A node of the autograd graph has a number from a
// counter of the thread that made it, so that the numbers at which modules were called and returned there
// tell in which module a node was made.
#pragma once

#include "objects/python_guards.h"

#include <c10/util/flat_hash_map.h>
#include <torch/csrc/autograd/node.h>
#include <torch/csrc/python_headers.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace fastfake {

// The GIL guards it.
class ModuleCalls {
 public:
  // `name_module(module)` gives the name of a module that is called for the first time. `root_called(module,
  // args)` is told of each call of a module while none is running on its thread, recomputations aside.
  void start(PyObject* name_module, PyObject* root_called);
  // Forgets the modules, but not their names.
  void stop();

  void enter(PyObject* module, PyObject* args);
  void leave(PyObject* module);

  // Calls `name_module` for one that has not been called. 0 if another thread ended this session meanwhile.
  uint32_t number_of(PyObject* module);

  // How many modules are running on this thread, each inside of the one before.
  size_t depth() { return of_this_thread().running.size(); }
  // The number of the innermost one; 0 for none.
  uint32_t innermost() { return of_this_thread().innermost(); }
  // The number of the module in which this node was made.
  uint32_t of_node(const torch::autograd::Node& node) const;

  // By number.
  const std::vector<std::string>& names() const { return names_; }

 private:
  // Each thread runs modules of its own, and counts nodes for itself.
  struct OfThread {
    uint32_t innermost() const { return running.empty() ? 0 : running.back(); }
    void remember_change();

    std::vector<uint32_t> running;
    // From which node on which module was the innermost one.
    std::vector<std::pair<uint64_t, uint32_t>> changes;
  };
  OfThread& of_this_thread();

  struct Known {
    PyRef module;
    uint32_t number;
  };
  // Changes when one begins and when it ends, which another thread may do while Python is called here.
  uint64_t session_ = 0;
  PyRef name_module_;
  PyRef root_called_;
  ska::flat_hash_map<PyObject*, Known> known_;
  std::vector<std::string> names_{""};
  ska::flat_hash_map<uint64_t, OfThread> threads_;  // by torch's numbers of threads
};

}  // namespace fastfake
