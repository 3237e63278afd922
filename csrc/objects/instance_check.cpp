#include "objects/instance_check.h"

#include "objects/python_guards.h"
#include "process_state.h"

#include <torch/csrc/autograd/python_variable.h>

#include <array>

namespace fastfake {

namespace {

constexpr auto attribute = "__instancecheck__";

// `bound` is the method of `type` bound to torch.Tensor.
PyObject* is_tensor(PyObject* bound, PyObject* object) {
  if (Py_IS_TYPE(object, process().fake_tensor.type)) Py_RETURN_TRUE;
  return PyObject_CallOneArg(bound, object);
}

PyMethodDef is_tensor_method = {attribute, is_tensor, METH_O, "Whether an object is a tensor."};

struct Descriptor {
  PyObject_HEAD PyObject* for_tensor;  // the answer where torch.Tensor asks
  PyObject* of_type;                   // the descriptor in the dictionary of `type`, which answers elsewhere
};

PyObject* bind(PyObject* self, PyObject* cls, PyObject* metaclass) {
  const auto* descriptor = reinterpret_cast<Descriptor*>(self);
  if (cls == THPVariableClass) return Py_NewRef(descriptor->for_tensor);
  return Py_TYPE(descriptor->of_type)->tp_descr_get(descriptor->of_type, cls, metaclass);
}

PyObject* make_descriptor() {
  std::array<PyType_Slot, 3> slots = {{
      {Py_tp_doc, const_cast<char*>("isinstance() for classes of tensors.")},
      {Py_tp_descr_get, reinterpret_cast<void*>(bind)},
      {0, nullptr},
  }};
  PyType_Spec spec = {
      .name = "fastfake._C.InstanceCheck",
      .basicsize = sizeof(Descriptor),
      .itemsize = 0,
      .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
      .slots = slots.data(),
  };
  const auto attributes =
      PyRef::steal(PyObject_GetAttrString(reinterpret_cast<PyObject*>(&PyType_Type), "__dict__"));
  auto of_type = PyRef::steal(PyMapping_GetItemString(attributes.get(), attribute));
  const auto bound = PyRef::steal(PyObject_GetAttrString(THPVariableClass, attribute));
  auto for_tensor = PyRef::steal(PyCFunction_New(&is_tensor_method, bound.get()));
  const auto type = PyRef::steal(PyType_FromSpec(&spec));
  PyObject* made =
      PyRef::steal(PyType_GenericAlloc(reinterpret_cast<PyTypeObject*>(type.get()), 0)).release();
  auto* descriptor = reinterpret_cast<Descriptor*>(made);
  descriptor->for_tensor = for_tensor.release();
  descriptor->of_type = of_type.release();
  return made;
}

}  // namespace

void InstanceCheck::install() {
  if (descriptor_ == nullptr) descriptor_ = make_descriptor();
  PyTypeObject* metaclass = Py_TYPE(THPVariableClass);
  if (PyDict_GetItemString(metaclass->tp_dict, attribute) != nullptr) return;
  if (PyDict_SetItemString(metaclass->tp_dict, attribute, descriptor_) != 0) throw python_error();
  PyType_Modified(metaclass);
}

void InstanceCheck::remove() {
  PyTypeObject* metaclass = Py_TYPE(THPVariableClass);
  if (descriptor_ == nullptr || PyDict_GetItemString(metaclass->tp_dict, attribute) != descriptor_) return;
  if (PyDict_DelItemString(metaclass->tp_dict, attribute) != 0) throw python_error();
  PyType_Modified(metaclass);
}

}  // namespace fastfake
