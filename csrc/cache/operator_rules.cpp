#include "cache/operator_rules.h"

#include "cache/kept.h"
#include "objects/python_guards.h"
#include "process_state.h"

#include <string>

namespace fastfake {

void OperatorRules::register_python(PyObject* rules_of) { Py_XSETREF(rules_of_, Py_NewRef(rules_of)); }

uint64_t OperatorRules::of(const OperatorFacts& op) {
  const uint64_t now = process().registrations.number();
  if (registrations_ != now) {
    known_.clear();
    registrations_ = now;
  }
  const auto found = known_.find(op.id);
  if (C10_LIKELY(found != known_.end())) return found->second;
  const uint64_t rules = ask_python(op);
  // Python may have imported what registers something, and another thread may have asked meanwhile.
  if (process().registrations.number() == now && registrations_ == now) known_[op.id] = rules;
  return rules;
}

uint64_t OperatorRules::ask_python(const OperatorFacts& op) const {
  const std::string text = c10::toString(process().operators.name(op.id));
  const auto name =
      PyRef::steal(PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
  const auto bits = PyRef::steal(PyObject_CallOneArg(rules_of_, name.get()));
  const auto rules = PyLong_AsUnsignedLongLong(bits.get());
  if (PyErr_Occurred() != nullptr) throw python_error();
  return rules;
}

bool is_torchs(const OperatorFacts& op) {
  return op.is_of_python_library &&
         !kept("rule: functions of programs", (process().operator_rules.of(op) & is_computed_by_torch) == 0);
}

}  // namespace fastfake
