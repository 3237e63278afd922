#include "dispatch/mode_entry.h"

#include "objects/python_guards.h"
#include "process_state.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <c10/util/Exception.h>
#include <torch/csrc/PyInterpreter.h>
#include <torch/csrc/utils/tensor_new.h>

#include <array>
#include <memory>

namespace fastfake {

namespace {

using c10::impl::TorchDispatchModeKey;
using c10::impl::TorchDispatchModeTLS;

// What `FakeTensorMode._prepare_to_enter` returns, and what is kept of an entry; see thread_state.EnterStack.
enum Prepared : Py_ssize_t { Entries, NoAccelerator, IsUsers, SeesCompiledCode };
enum Entry : Py_ssize_t { Activated, Replaced, LiftedBefore, FlagsBefore };

bool item_is_true(const PyRef& tuple, Py_ssize_t index) {
  return is_true(PyTuple_GET_ITEM(tuple.get(), index));
}

// What torch's Python code knows of the modes that are entered: variables of the module in which its modes
// are.
class ModeFlags {
 public:
  // Imported long ago: looking it up runs no Python code.
  ModeFlags() : module_(PyRef::steal(PyImport_GetModule(name_of_module().get()))) {}

  PyRef read() const {
    auto values = PyRef::steal(PyTuple_New(static_cast<Py_ssize_t>(names.size())));
    for (size_t i = 0; i < names.size(); ++i) {
      PyTuple_SET_ITEM(values.get(), static_cast<Py_ssize_t>(i),
                       PyRef::steal(PyObject_GetAttrString(module_.get(), names.at(i))).release());
    }
    return values;
  }

  void write(const PyRef& values) const {
    for (size_t i = 0; i < names.size(); ++i) {
      PyObject* value = PyTuple_GET_ITEM(values.get(), static_cast<Py_ssize_t>(i));
      if (PyObject_SetAttrString(module_.get(), names.at(i), value) != 0) throw python_error();
    }
    // The last one is known to Dynamo's guards as well.
    PyObject* last = PyTuple_GET_ITEM(values.get(), static_cast<Py_ssize_t>(names.size()) - 1);
    PyRef::steal(
        PyObject_CallMethod(module_.get(), "set_is_in_mode_without_ignore_compile_internals", "O", last));
  }

  // What they are once a mode is entered of which `prepared` tells.
  static PyRef within(const PyRef& before, const PyRef& prepared) {
    const auto either = [&](Py_ssize_t flag, Prepared of_mode) {
      return Py_NewRef(item_is_true(before, flag) || item_is_true(prepared, of_mode) ? Py_True : Py_False);
    };
    return PyRef::steal(Py_BuildValue("(ONN)", Py_True, either(1, IsUsers), either(2, SeesCompiledCode)));
  }

 private:
  static constexpr std::array<const char*, 3> names = {
      "_is_in_torch_dispatch_mode",
      "_is_in_non_infra_torch_dispatch_mode",
      "_is_in_any_mode_without_ignore_compile_internals",
  };
  static PyRef name_of_module() { return PyRef::steal(PyUnicode_FromString("torch.utils._python_dispatch")); }

  PyRef module_;
};

void activate(PyObject* mode) {
  TorchDispatchModeTLS::set_mode(
      std::make_shared<c10::impl::PyObject_TorchDispatchMode>(Py_NewRef(mode), getPyInterpreter()),
      TorchDispatchModeKey::FAKE);
}

PyObject* enter(PyObject* self, PyObject* /*unused*/) {
  HANDLE_TH_ERRORS
  // What runs Python code comes first, while there is nothing to take back.
  const auto prepared = PyRef::steal(PyObject_CallMethod(self, "_prepare_to_enter", nullptr));
  const ModeFlags flags;
  const bool stays_on_cpu = item_is_true(prepared, NoAccelerator);
  const auto active = TorchDispatchModeTLS::get_mode(TorchDispatchModeKey::FAKE);
  PyObject* before = active ? (*active)->ptr(getPyInterpreter()) : Py_None;
  const bool activates = before != self;
  const auto flags_before = flags.read();
  const auto flags_within = ModeFlags::within(flags_before, prepared);
  PyObject* lifted_before = Py_None;
  if (stays_on_cpu) lifted_before = torch::utils::only_lift_cpu_tensors() ? Py_True : Py_False;
  const auto entry =
      PyRef::steal(Py_BuildValue("(OOOO)", activates ? Py_True : Py_False, activates ? before : Py_None,
                                 lifted_before, flags_before.get()));
  if (PyList_Append(PyTuple_GET_ITEM(prepared.get(), Entries), entry.get()) != 0) throw python_error();

  if (stays_on_cpu) {
    torch::utils::set_only_lift_cpu_tensors(true);
    process().device_guards.replace_torchs_of_cuda();
  }
  process().device_guards.lend();
  if (activates) {
    flags.write(flags_within);
    if (active) TorchDispatchModeTLS::unset_mode(TorchDispatchModeKey::FAKE);
    activate(self);
  }
  return Py_NewRef(self);
  END_HANDLE_TH_ERRORS
}

// The latest entry of this thread, taken off the mode's stack.
PyRef pop_entry(PyObject* self) {
  const auto stack = PyRef::steal(PyObject_GetAttrString(self, "_enter_stack"));
  const auto entries = PyRef::steal(PyObject_GetAttrString(stack.get(), "entries"));
  const auto count = PyList_Size(entries.get());
  if (count < 0) throw python_error();
  TORCH_CHECK_INDEX(count > 0, "pop from empty list");
  auto entry = PyRef::borrow(PyList_GET_ITEM(entries.get(), count - 1));
  if (PyList_SetSlice(entries.get(), count - 1, count, nullptr) != 0) throw python_error();
  return entry;
}

PyObject* leave(PyObject* self, PyObject* /*exception*/) {
  HANDLE_TH_ERRORS
  const ModeFlags flags;
  const auto entry = pop_entry(self);
  process().device_guards.take_back();
  bool was_active = true;
  if (item_is_true(entry, Activated)) {
    was_active = TorchDispatchModeTLS::unset_mode(TorchDispatchModeKey::FAKE).has_value();
    PyObject* replaced = PyTuple_GET_ITEM(entry.get(), Replaced);
    // Where none is active, modes are left in another order than that in which they were entered: the one
    // that was replaced may be done with, and nobody would leave it again.
    if (was_active && replaced != Py_None) activate(replaced);
    flags.write(PyRef::borrow(PyTuple_GET_ITEM(entry.get(), FlagsBefore)));
  }
  PyObject* lifted_before = PyTuple_GET_ITEM(entry.get(), LiftedBefore);
  if (lifted_before != Py_None) {
    torch::utils::set_only_lift_cpu_tensors(lifted_before == Py_True &&
                                            (was_active || torch::utils::only_lift_cpu_tensors()));
  }
  TORCH_CHECK(was_active, "Attempted to unset ", c10::impl::to_string(TorchDispatchModeKey::FAKE),
              ", but there wasn't one active.");
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

constinit std::array<PyMethodDef, 3> methods = {{
    {"__enter__", enter, METH_NOARGS, "Activate the mode, whole or, if that raises, not at all."},
    {"__exit__", leave, METH_VARARGS, "Deactivate the mode and bring back the one that it replaced."},
    {nullptr, nullptr, 0, nullptr},
}};

}  // namespace

PyMethodDef* mode_entry_methods() noexcept { return methods.data(); }

}  // namespace fastfake
