// The custom operators that somebody vouches for: their fake results depend on the call alone, so that calls
// may be cached. Who vouches for good says so to the table of facts; others do so in the context of a call.
#pragma once

#include "cache/operator_facts.h"

#include <torch/csrc/python_headers.h>

namespace fastfake {

// The GIL guards it.
class VouchedOperators {
 public:
  // `ids` is a context variable, whose values are frozensets of ids of operators. `profiles` is the one of
  // torch's setting for profiles of custom operators, which stand in for fake implementations, and
  // `no_profiles` its value while nobody set it.
  void watch(PyObject* ids, PyObject* profiles, PyObject* no_profiles);

  // Why the calls of this custom operator are not cached now and on this thread; null where they may be.
  // Throws what Python raises.
  const char* bypass_of(const OperatorFacts& op) const;

  // Whether profiles stand in for the fake implementations of some custom operators.
  bool profiles_are_set() const;

 private:
  bool contain(uint64_t id) const;

  PyObject* ids_ = nullptr;
  PyObject* profiles_ = nullptr;
  PyObject* no_profiles_ = nullptr;
};

}  // namespace fastfake
