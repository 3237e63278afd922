// What is registered with torch while the program runs: operators, kernels, decompositions, rules for fake
// tensors.
//
// The answer to a call depends on all of them, on those of other operators too, since kernels and
// decompositions call others. So whatever is registered or taken back makes every earlier answer unreachable.
// Kernels are registered through Python methods, which tell of it (registrations.py), or when a library is
// loaded, which defines operators as well; rules stand in Python tables, which are watched.
#pragma once

#include "objects/dictionary_version.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/macros/Macros.h>
#include <torch/csrc/python_headers.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace fastfake {

// The GIL guards it, except for `note`.
class Registrations {
 public:
  Registrations();

  // Something was registered, or will have been before the GIL is released; or anything else is new that any
  // answer may depend on. From any thread, without the GIL too.
  void note() noexcept { noted_.store(true, std::memory_order_release); }

  // Watches dictionaries, of which there are few, for every change, and a list for its length.
  // `has_rule(name)` tells whether an operator has a rule for what a class with __torch_dispatch__ does with
  // it.
  void watch(PyObject* dictionaries, PyObject* list, PyObject* has_rule);

  // Whether torch asks such a rule before the mode or the tensors of the class. Calls Python.
  bool has_rule(const c10::OperatorName& op) const;

  // Grows whenever something was registered since the last call, which empties the cache of the process.
  uint64_t number() {
    if (C10_UNLIKELY(noted_.load(std::memory_order_acquire) || version_of_tables() != known_version_)) {
      forget_answers();
    }
    return number_;
  }

 private:
  static constexpr size_t most_dictionaries = 4;

  // A number that changes with the tables.
  uint64_t version_of_tables() const noexcept {
    // Added above the bits that the versions of dictionaries take.
    uint64_t version =
        list_ == nullptr ? 0 : static_cast<uint64_t>(reinterpret_cast<PyVarObject*>(list_)->ob_size) << 48;
    // Where they have no versions, changes of the dictionaries are noted.
    for (size_t i = 0; i < count_; ++i) version += version_of(dictionaries_[i]);
    return version;
  }
  C10_NOINLINE void forget_answers();

  std::atomic<bool> noted_{false};
  size_t count_ = 0;
  std::array<PyObject*, most_dictionaries> dictionaries_{};
  PyObject* list_ = nullptr;
  PyObject* has_rule_ = nullptr;
  uint64_t known_version_ = 0;
  uint64_t number_ = 0;
  c10::RegistrationHandleRAII listening_;
};

}  // namespace fastfake
