// What gives the fake results of an operator, as far as Python knows: remembered until something is
// registered.
//
// torch.distributed and torch's quantization have their operators in libraries of their own, as custom
// operators are, and give the fake results by functions written in Python. Those depend on the tensors,
// numbers and texts among the arguments alone: not on objects, which are a group of processes or a reduction.
// So calls may be cached as long as the function is torch's. A program may have put one of its own in that
// place, which counts what would be sent, say.
#pragma once

#include "cache/operator_facts.h"

#include <c10/util/flat_hash_map.h>
#include <torch/csrc/python_headers.h>

#include <cstdint>

namespace fastfake {

// Bits, which operator_rules.py knows too.
enum OperatorRule : uint8_t {
  // A function of such a library gives the results.
  is_computed_by_torch = 1,
  // torch asks a rule of the operator's before it asks a mode.
  has_dispatch_rule = 2,
  // No function of a program's gives the results, unless it is a kernel.
  has_no_rule_of_programs = 4,
};

// The GIL guards it.
class OperatorRules {
 public:
  // `rules_of` takes the name of an operator and returns bits.
  void register_python(PyObject* rules_of);

  // The bits of an operator. Calls Python the first time, and when something was registered since.
  uint64_t of(const OperatorFacts& op);

 private:
  uint64_t ask_python(const OperatorFacts& op) const;

  PyObject* rules_of_ = nullptr;
  uint64_t registrations_ = 0;
  ska::flat_hash_map<uint64_t, uint64_t> known_;  // by the id of the operator, as of registrations_
};

// Whether `op` is one of such a library of torch's, and a function of torch's gives its fake results. May
// call Python. Needs the GIL.
bool is_torchs(const OperatorFacts& op);

}  // namespace fastfake
