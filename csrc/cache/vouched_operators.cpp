#include "cache/vouched_operators.h"

#include "cache/kept.h"
#include "objects/python_guards.h"
#include "process_state.h"

#include <c10/util/Exception.h>

namespace fastfake {

void VouchedOperators::watch(PyObject* ids, PyObject* profiles, PyObject* no_profiles) {
  TORCH_CHECK_TYPE(PyContextVar_CheckExact(ids) && PyContextVar_CheckExact(profiles),
                   "context variables are needed");
  Py_XSETREF(ids_, Py_NewRef(ids));
  Py_XSETREF(profiles_, Py_NewRef(profiles));
  Py_XSETREF(no_profiles_, Py_NewRef(no_profiles));
}

const char* VouchedOperators::bypass_of(const OperatorFacts& op) const {
  const bool is_vouched_for = op.bypass == nullptr || is_torchs(op) || contain(op.id);
  if (!is_vouched_for) return op.bypass;
  return kept("rule: profiles of operators", profiles_are_set()) ? "operator profiles" : nullptr;
}

bool VouchedOperators::contain(uint64_t id) const {
  if (ids_ == nullptr) return false;
  const auto ids = value_of(ids_);
  if (!PyFrozenSet_CheckExact(ids.get())) return false;
  const int found = PySet_Contains(ids.get(), PyRef::steal(PyLong_FromUnsignedLongLong(id)).get());
  if (found < 0) throw python_error();
  return found == 1;
}

bool VouchedOperators::profiles_are_set() const {
  if (profiles_ == nullptr) return false;
  const auto profiles = value_of(profiles_);
  return profiles.get() != no_profiles_ && profiles.get() != Py_None;
}

}  // namespace fastfake
