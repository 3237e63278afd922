#include "cache/works.h"

#include "objects/python_guards.h"

#include <c10/util/Exception.h>
#include <torch/csrc/jit/python/module_python.h>

namespace fastfake {

void Works::register_python(PyObject* new_work) { Py_XSETREF(new_work_, Py_NewRef(new_work)); }

c10::IValue Works::make() const {
  const auto work = PyRef::steal(PyObject_CallNoArgs(new_work_));
  const auto object = torch::jit::as_object(work.get());
  TORCH_CHECK_TYPE(object.has_value(), "a work must be a script object");
  return object->_ivalue();
}

}  // namespace fastfake
