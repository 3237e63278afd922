#include "objects/fake_tensor.h"

#include "dispatch/kernel_invocation.h"
#include "objects/attribute_lookup.h"
#include "objects/python_guards.h"

#include <structmember.h>

namespace fastfake {

namespace {

Py_ssize_t slot_offset(PyTypeObject* type, const char* name) {
  auto member = PyRef::steal(PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), name));
  TORCH_CHECK_TYPE(Py_TYPE(member.get()) == &PyMemberDescr_Type, type->tp_name, ".", name, " must be a slot");
  return reinterpret_cast<PyMemberDescrObject*>(member.get())->d_member->offset;
}

// torch's own getter of `device` asks for a dispatch to the class first and makes a new object each time.
PyObject* get_device(PyObject* self, void* /*closure*/) {
  HANDLE_TH_ERRORS
  const auto fake = FakeTensorView::of(self);
  if (!fake) {
    PyErr_SetString(PyExc_AttributeError,
                    "this FakeTensor has no device, because FakeTensor's constructor did not make it; "
                    "Tensor._make_subclass and FakeTensor.as_subclass do not give it a device and a mode");
    return nullptr;
  }
  return Py_NewRef(in_kernel_invocation(fake.mode()) ? process().devices.object(c10::kMeta)
                                                     : fake.device_object());
  END_HANDLE_TH_ERRORS
}

int refuse_device(PyObject* /*self*/, PyObject* value, void* /*closure*/) {
  if (value == nullptr) {
    PyErr_SetString(PyExc_AttributeError, "the device of a fake tensor cannot be deleted");
  } else {
    PyErr_SetNone(PyExc_NotImplementedError);
  }
  return -1;
}

PyGetSetDef device_attribute = {"device", get_device, refuse_device,
                                "The imitated device; meta while a kernel computes metadata.", nullptr};

}  // namespace

void register_fake_tensor_class(PyTypeObject* type) {
  FakeTensorClass registered;
  registered.type = type;
  registered.fake_device = slot_offset(type, "_fake_device");
  registered.fake_mode = slot_offset(type, "fake_mode");
  registered.constant = slot_offset(type, "_constant");
  registered.real_tensor = slot_offset(type, "real_tensor");
  registered.pytype = slot_offset(type, "pytype");
  registered.dispatch_keys = slot_offset(type, "dispatch_keys");
  registered.memos = slot_offset(type, "_memos");
  registered.observer = process().fake_tensor.observer;
  registered.dispatch.expect(type, "__torch_dispatch__", nullptr);
  const auto device = PyRef::steal(PyDescr_NewGetSet(type, &device_attribute));
  if (PyObject_SetAttrString(reinterpret_cast<PyObject*>(type), "device", device.get()) != 0) {
    throw python_error();
  }
  look_up_c_strings_fast(type);
  // Kept for good: the hook may meet a fake tensor at any time until the process ends.
  Py_INCREF(type);
  process().fake_tensor = registered;
}

}  // namespace fastfake
