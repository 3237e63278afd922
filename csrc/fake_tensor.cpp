#include "fake_tensor.h"

#include "kernel_invocation.h"
#include "python_guards.h"

#include <structmember.h>
#include <torch/csrc/Device.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pyobject_preservation.h>

#include <array>
#include <new>
#include <vector>

namespace fastfake {

namespace {

PyTypeObject* registered_class = nullptr;
PyObject* creation_observer = nullptr;

struct SlotOffsets {
  Py_ssize_t fake_device = 0;
  Py_ssize_t fake_mode = 0;
  Py_ssize_t constant = 0;
  Py_ssize_t real_tensor = 0;
  Py_ssize_t pytype = 0;
  Py_ssize_t dispatch_keys = 0;
  Py_ssize_t memos = 0;
} offsets;

PyObject*& slot(PyObject* object, Py_ssize_t offset) noexcept {
  return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offset);
}

Py_ssize_t slot_offset(PyTypeObject* type, const char* name) {
  auto member = PyRef::steal(PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), name));
  TORCH_CHECK_TYPE(Py_TYPE(member.get()) == &PyMemberDescr_Type, type->tp_name, ".", name, " must be a slot");
  return reinterpret_cast<PyMemberDescrObject*>(member.get())->d_member->offset;
}

bool is_fake_tensor_type(PyTypeObject* type) noexcept {
  return type == registered_class ||
         (registered_class != nullptr && PyType_IsSubtype(type, registered_class) != 0);
}

PyObject* meta_device() {
  static PyObject* device = device_object(c10::kMeta);
  return device;
}

// torch's own getter of `device` asks for a dispatch to the class first and makes a new object each time.
PyObject* get_device(PyObject* self, void* /*closure*/) {
  const auto fake = FakeTensorView::of(self);
  if (!fake) {
    PyErr_SetString(PyExc_AttributeError, "device: the fake tensor was made around its constructor");
    return nullptr;
  }
  return Py_NewRef(in_kernel_invocation() ? meta_device() : slot(self, offsets.fake_device));
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
  offsets = {
      .fake_device = slot_offset(type, "_fake_device"),
      .fake_mode = slot_offset(type, "fake_mode"),
      .constant = slot_offset(type, "constant"),
      .real_tensor = slot_offset(type, "real_tensor"),
      .pytype = slot_offset(type, "pytype"),
      .dispatch_keys = slot_offset(type, "dispatch_keys"),
      .memos = slot_offset(type, "_memos"),
  };
  const auto device = PyRef::steal(PyDescr_NewGetSet(type, &device_attribute));
  if (PyObject_SetAttrString(reinterpret_cast<PyObject*>(type), "device", device.get()) != 0) {
    throw python_error();
  }
  meta_device();
  // Kept for good: the hook may meet a fake tensor at any time until the process ends.
  Py_INCREF(type);
  registered_class = type;
}

void observe_new_tensors(PyObject* callable) {
  Py_XSETREF(creation_observer, callable == Py_None ? nullptr : Py_XNewRef(callable));
}

PyTypeObject* fake_tensor_class() noexcept { return registered_class; }

FakeTensorView FakeTensorView::of(PyObject* object) noexcept {
  if (object == nullptr || !is_fake_tensor_type(Py_TYPE(object))) return FakeTensorView(nullptr);
  // A class may be instantiated around its constructor, which leaves slots empty or, by assignment,
  // filled with anything. The slots that C++ interprets are checked; the rest is only compared.
  PyObject* device = slot(object, offsets.fake_device);
  if (device == nullptr || !THPDevice_Check(device) || slot(object, offsets.fake_mode) == nullptr) {
    return FakeTensorView(nullptr);
  }
  return FakeTensorView(object);
}

FakeTensorView FakeTensorView::of(const c10::TensorImpl* impl) noexcept {
  return of(impl->pyobj_slot()->load_pyobj());
}

bool FakeTensorView::is_exactly_fake_tensor() const noexcept { return Py_TYPE(object_) == registered_class; }

PyObject* FakeTensorView::mode() const noexcept { return slot(object_, offsets.fake_mode); }

c10::Device FakeTensorView::device() const noexcept {
  return reinterpret_cast<THPDevice*>(slot(object_, offsets.fake_device))->device;
}

bool FakeTensorView::has_constant() const noexcept { return slot(object_, offsets.constant) != Py_None; }

bool FakeTensorView::is_plain() const noexcept {
  return slot(object_, offsets.constant) == Py_None && slot(object_, offsets.real_tensor) == Py_None &&
         slot(object_, offsets.pytype) == Py_None && slot(object_, offsets.dispatch_keys) == Py_None;
}

PyObject* device_object(c10::Device device) {
  static std::array<std::vector<PyObject*>,
                    static_cast<size_t>(c10::DeviceType::COMPILE_TIME_MAX_DEVICE_TYPES)>
      interned;
  auto& of_type = interned.at(static_cast<size_t>(device.type()));
  const auto position = static_cast<size_t>(device.index() + 1);  // index -1 is "no index"
  if (position >= of_type.size()) of_type.resize(position + 1, nullptr);
  if (of_type[position] == nullptr) of_type[position] = PyRef::steal(THPDevice_New(device)).release();
  return of_type[position];
}

at::Tensor adopt_as_fake(c10::intrusive_ptr<c10::TensorImpl> impl, PyObject* mode, PyObject* device) {
  TORCH_INTERNAL_ASSERT(impl.unique(), "a TensorImpl that others refer to cannot get a Python object here");
  // What THPVariable_Wrap does for a class that it has to examine first; this class is known.
  auto object = PyRef::steal(registered_class->tp_alloc(registered_class, 0));
  torch::utils::PyObjectPreservation::init_fresh_nonatomic(*impl, object.get());
  auto* variable = reinterpret_cast<THPVariable*>(object.get());
  new (&variable->cdata) at::Tensor(std::move(impl));
  slot(object.get(), offsets.fake_device) = Py_NewRef(device);
  slot(object.get(), offsets.fake_mode) = Py_NewRef(mode);
  for (const auto offset :
       {offsets.constant, offsets.real_tensor, offsets.pytype, offsets.dispatch_keys, offsets.memos}) {
    slot(object.get(), offset) = Py_NewRef(Py_None);
  }
  if (C10_UNLIKELY(creation_observer != nullptr)) {
    PyRef::steal(PyObject_CallOneArg(creation_observer, object.get()));
  }
  // This reference to the TensorImpl is the second one, so from here on it keeps the object alive.
  return variable->cdata;
}

}  // namespace fastfake
