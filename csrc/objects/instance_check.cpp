#include "objects/instance_check.h"

#include "objects/python_guards.h"
#include "process_state.h"

#include <structmember.h>
#include <torch/csrc/autograd/python_variable.h>

#include <array>
#include <cstddef>

namespace fastfake {

namespace {

constexpr auto instance_check = "__instancecheck__";

// The descriptor, and the answer where torch.Tensor asks for the method: it is then called itself, which
// CPython does with fewer steps for a vectorcall than for a function with a signature.
struct Descriptor {
  PyObject_HEAD vectorcallfunc call;
  PyObject* of_tensor;  // the method of `type` bound to torch.Tensor
  PyObject* of_type;    // the descriptor in the dictionary of `type`, which answers elsewhere
};

PyObject* is_tensor(PyObject* self, PyObject* const* arguments, size_t count, PyObject* names) {
  if (C10_LIKELY(PyVectorcall_NARGS(count) == 1 && names == nullptr) &&
      Py_IS_TYPE(arguments[0], process().fake_tensor.type)) {
    Py_RETURN_TRUE;
  }
  return PyObject_Vectorcall(reinterpret_cast<Descriptor*>(self)->of_tensor, arguments, count, names);
}

PyObject* bind(PyObject* self, PyObject* cls, PyObject* metaclass) {
  if (cls == THPVariableClass) return Py_NewRef(self);
  PyObject* of_type = reinterpret_cast<Descriptor*>(self)->of_type;
  return Py_TYPE(of_type)->tp_descr_get(of_type, cls, metaclass);
}

PyObject* make_descriptor() {
  std::array<PyMemberDef, 2> members = {{
      {"__vectorcalloffset__", T_PYSSIZET, offsetof(Descriptor, call), READONLY, nullptr},
      {nullptr, 0, 0, 0, nullptr},
  }};
  std::array<PyType_Slot, 5> slots = {{
      {Py_tp_doc, const_cast<char*>("isinstance() for classes of tensors.")},
      {Py_tp_descr_get, reinterpret_cast<void*>(bind)},
      {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
      {Py_tp_members, members.data()},
      {0, nullptr},
  }};
  PyType_Spec spec = {
      .name = "fastfake._C.InstanceCheck",
      .basicsize = sizeof(Descriptor),
      .itemsize = 0,
      .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL,
      .slots = slots.data(),
  };
  const auto attributes =
      PyRef::steal(PyObject_GetAttrString(reinterpret_cast<PyObject*>(&PyType_Type), "__dict__"));
  auto of_type = PyRef::steal(PyMapping_GetItemString(attributes.get(), instance_check));
  auto of_tensor = PyRef::steal(PyObject_GetAttrString(THPVariableClass, instance_check));
  const auto type = PyRef::steal(PyType_FromSpec(&spec));
  PyObject* made =
      PyRef::steal(PyType_GenericAlloc(reinterpret_cast<PyTypeObject*>(type.get()), 0)).release();
  auto* descriptor = reinterpret_cast<Descriptor*>(made);
  descriptor->call = is_tensor;
  descriptor->of_tensor = of_tensor.release();
  descriptor->of_type = of_type.release();
  return made;
}

}  // namespace

void InstanceCheck::install() {
  if (descriptor_ == nullptr) descriptor_ = make_descriptor();
  PyTypeObject* metaclass = Py_TYPE(THPVariableClass);
  if (PyDict_GetItemString(metaclass->tp_dict, instance_check) != nullptr) return;
  if (PyDict_SetItemString(metaclass->tp_dict, instance_check, descriptor_) != 0) throw python_error();
  PyType_Modified(metaclass);
}

void InstanceCheck::remove() {
  PyTypeObject* metaclass = Py_TYPE(THPVariableClass);
  if (descriptor_ == nullptr || PyDict_GetItemString(metaclass->tp_dict, instance_check) != descriptor_)
    return;
  if (PyDict_DelItemString(metaclass->tp_dict, instance_check) != 0) throw python_error();
  PyType_Modified(metaclass);
}

}  // namespace fastfake
