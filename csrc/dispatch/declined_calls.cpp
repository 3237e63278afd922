#include "dispatch/declined_calls.h"

#include "dispatch/thread_state.h"
#include "objects/fake_tensor.h"
#include "objects/python_guards.h"
#include "process_state.h"

#include <structmember.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

namespace fastfake {

namespace {

struct Method {
  PyObject_HEAD vectorcallfunc call;
  PyObject* function;
};

// Classes that derive from Parameter may do no more than mark tensors, which Python finds out.
bool is_asked_first(PyObject* cls) {
  auto* type = reinterpret_cast<PyTypeObject*>(cls);
  static PyObject* const parameter = [] {
    const auto module = PyRef::steal(PyImport_ImportModule("torch.nn"));
    return PyRef::steal(PyObject_GetAttrString(module.get(), "Parameter")).release();
  }();
  return PyType_Check(cls) && cls != THPVariableClass && !process().fake_tensor.is_base_of(type) &&
         PyType_IsSubtype(type, reinterpret_cast<PyTypeObject*>(parameter)) == 0;
}

bool has_class_that_is_asked_first(PyObject* classes) {
  if (!PyTuple_CheckExact(classes)) return false;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(classes); ++i) {
    if (is_asked_first(PyTuple_GET_ITEM(classes, i))) return true;
  }
  return false;
}

// `arguments` are the mode, the operator, the classes that dispatch, and the operator's arguments.
PyObject* decline_or_pass_on(PyObject* self, PyObject* const* arguments, size_t count, PyObject* names) {
  constexpr Py_ssize_t classes = 2;
  if (C10_UNLIKELY(std::exchange(thread_state.declines, false)) && PyVectorcall_NARGS(count) > classes) {
    HANDLE_TH_ERRORS
    if (has_class_that_is_asked_first(arguments[classes])) Py_RETURN_NOTIMPLEMENTED;
    END_HANDLE_TH_ERRORS
  }
  // Not between those macros: they would hold the warnings of the call back, and raise them over its error.
  return PyObject_Vectorcall(reinterpret_cast<Method*>(self)->function, arguments, count, names);
}

PyObject* bind_to_mode(PyObject* self, PyObject* mode, PyObject* /*cls*/) {
  return mode == nullptr || mode == Py_None ? Py_NewRef(self) : PyMethod_New(self, mode);
}

// Its name, its documentation, and what else is asked of a method.
PyObject* attribute_of_function(PyObject* self, PyObject* name) {
  return PyObject_GetAttr(reinterpret_cast<Method*>(self)->function, name);
}

PyTypeObject* method_type() {
  static auto* const type = [] {
    static std::array<PyMemberDef, 2> members = {{
        {"__vectorcalloffset__", T_PYSSIZET, offsetof(Method, call), READONLY, nullptr},
        {nullptr, 0, 0, 0, nullptr},
    }};
    std::array<PyType_Slot, 6> slots = {{
        {Py_tp_doc, const_cast<char*>("A mode's `__torch_dispatch__`.")},
        {Py_tp_descr_get, reinterpret_cast<void*>(bind_to_mode)},
        {Py_tp_getattro, reinterpret_cast<void*>(attribute_of_function)},
        {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
        {Py_tp_members, members.data()},
        {0, nullptr},
    }};
    PyType_Spec spec = {
        .name = "fastfake._C.DecliningMethod",
        .basicsize = sizeof(Method),
        .itemsize = 0,
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL |
                 Py_TPFLAGS_METHOD_DESCRIPTOR,
        .slots = slots.data(),
    };
    return reinterpret_cast<PyTypeObject*>(PyRef::steal(PyType_FromSpec(&spec)).release());
  }();
  return type;
}

}  // namespace

bool is_left_to_a_class(c10::ArrayRef<c10::IValue> arguments) {
  const auto goes_first = [](const c10::IValue& value) {
    return value.isTensor() && is_of_another_dispatching_class(*value.unsafeToTensorImpl());
  };
  return std::ranges::any_of(arguments, [&](const c10::IValue& argument) {
    return goes_first(argument) ||
           (argument.isList() && std::ranges::any_of(argument.toListRef(), goes_first));
  });
}

DecliningMode::DecliningMode(const OperatorFacts& op) : before_(thread_state.declines) {
  // Queries about the tensor itself are answered, and a rule of the operator's comes before the mode.
  thread_state.declines =
      !op.is_attribute_query && (process().operator_rules.of(op) & has_dispatch_rule) == 0;
}

DecliningMode::~DecliningMode() { thread_state.declines = before_; }

PyObject* declining_method(PyObject* function) {
  auto object = PyRef::steal(PyType_GenericAlloc(method_type(), 0));
  auto* method = reinterpret_cast<Method*>(object.get());
  method->call = decline_or_pass_on;
  method->function = Py_NewRef(function);
  return object.release();
}

}  // namespace fastfake
