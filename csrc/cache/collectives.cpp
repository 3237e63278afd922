#include "cache/collectives.h"

#include "cache/kept.h"
#include "objects/python_guards.h"
#include "process_state.h"

#include <c10/util/Exception.h>
#include <torch/csrc/jit/python/module_python.h>

#include <string>

namespace fastfake {

void Collectives::register_python(PyObject* has_torchs_kernel, PyObject* new_work) {
  Py_XSETREF(has_torchs_kernel_, Py_NewRef(has_torchs_kernel));
  Py_XSETREF(new_work_, Py_NewRef(new_work));
}

bool Collectives::have_torchs_kernel(const OperatorFacts& op) {
  if (!op.is_collective) return false;
  const uint64_t now = process().registrations.number();
  if (registrations_ != now) {
    known_.clear();
    registrations_ = now;
  }
  const auto found = known_.find(op.id);
  if (C10_LIKELY(found != known_.end())) return found->second;
  const bool answer = !kept("rule: collectives of programs", !ask_python(op));
  // Python may have imported what registers kernels, and have asked here meanwhile.
  if (process().registrations.number() == now && registrations_ == now) known_[op.id] = answer;
  return answer;
}

bool Collectives::ask_python(const OperatorFacts& op) const {
  const std::string text = c10::toString(process().operators.name(op.id));
  const auto name =
      PyRef::steal(PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
  return is_true(PyRef::steal(PyObject_CallOneArg(has_torchs_kernel_, name.get())).get());
}

c10::IValue Collectives::new_work() const {
  const auto work = PyRef::steal(PyObject_CallNoArgs(new_work_));
  const auto object = torch::jit::as_object(work.get());
  TORCH_CHECK_TYPE(object.has_value(), "a work must be a script object");
  return object->_ivalue();
}

}  // namespace fastfake
