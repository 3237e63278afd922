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
enum Entry : Py_ssize_t { Activated, Replaced, LiftedBefore, Claims };

bool item_is_true(PyObject* tuple, Py_ssize_t index) { return is_true(PyTuple_GET_ITEM(tuple, index)); }

bool item_is_true(const PyRef& tuple, Py_ssize_t index) { return item_is_true(tuple.get(), index); }

// What torch's Python code knows of the modes that are entered: variables of the module in which its modes
// are, of the process where modes are of a thread. torch's modes put back what they found, which was another
// thread's, so that a flag may stay for ever. Here a flag holds while any thread is in a mode that claims it.
class ModeFlags {
 public:
  // Imported long ago: looking it up runs no Python code.
  ModeFlags() : module_(module()) {}

  void claim(const std::array<bool, count_of_mode_flags>& claims) const {
    for (size_t i = 0; i < claims.size(); ++i) {
      if (!claims.at(i)) continue;
      ++thread_state.mode_flag_claims.at(i);
      auto& flag = process().mode_flags.at(i);
      if (flag.claims++ == 0) flag.before = read(i);
      write(i, true);
    }
    tell_dynamo();
  }

  void give_up(const std::array<bool, count_of_mode_flags>& claims) const {
    for (size_t i = 0; i < claims.size(); ++i) {
      auto& of_this_thread = thread_state.mode_flag_claims.at(i);
      // None is left to give up where a mode is left more often than it was entered, as copies of one can be.
      if (!claims.at(i) || of_this_thread == 0) continue;
      --of_this_thread;
      auto& flag = process().mode_flags.at(i);
      if (--flag.claims == 0) write(i, flag.before);
    }
    tell_dynamo();
  }

  // In the child of a fork.
  void forget_claims_of_other_threads() const {
    for (size_t i = 0; i < count_of_mode_flags; ++i) {
      auto& flag = process().mode_flags.at(i);
      if (flag.claims != 0 && thread_state.mode_flag_claims.at(i) == 0) write(i, flag.before);
      flag.claims = thread_state.mode_flag_claims.at(i);
    }
    tell_dynamo();
  }

 private:
  static constexpr std::array<const char*, count_of_mode_flags> names = {
      "_is_in_torch_dispatch_mode",
      "_is_in_non_infra_torch_dispatch_mode",
      "_is_in_any_mode_without_ignore_compile_internals",
  };
  static PyRef module() {
    const auto name = PyRef::steal(PyUnicode_FromString("torch.utils._python_dispatch"));
    PyObject* module = PyImport_GetModule(name.get());
    // No error where it is missing, as it is for what runs while the interpreter takes its modules apart.
    if (module == nullptr && PyErr_Occurred() == nullptr) {
      PyErr_Format(PyExc_ImportError, "%U is gone, Python is likely shutting down", name.get());
    }
    return PyRef::steal(module);
  }

  bool read(size_t flag) const {
    return is_true(PyRef::steal(PyObject_GetAttrString(module_.get(), names.at(flag))).get());
  }
  void write(size_t flag, bool value) const {
    if (PyObject_SetAttrString(module_.get(), names.at(flag), value ? Py_True : Py_False) != 0)
      throw python_error();
  }
  // The last one is known to Dynamo's guards as well.
  void tell_dynamo() const {
    PyRef::steal(PyObject_CallMethod(module_.get(), "set_is_in_mode_without_ignore_compile_internals", "O",
                                     read(count_of_mode_flags - 1) ? Py_True : Py_False));
  }

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
  const std::array<bool, count_of_mode_flags> claims = {true, item_is_true(prepared, IsUsers),
                                                        item_is_true(prepared, SeesCompiledCode)};
  PyObject* lifted_before = Py_None;
  if (stays_on_cpu) lifted_before = torch::utils::only_lift_cpu_tensors() ? Py_True : Py_False;
  const auto boolean = [](bool value) { return value ? Py_True : Py_False; };
  const auto entry =
      PyRef::steal(Py_BuildValue("(OOO(OOO))", boolean(activates), activates ? before : Py_None,
                                 lifted_before, boolean(claims[0]), boolean(claims[1]), boolean(claims[2])));
  if (PyList_Append(PyTuple_GET_ITEM(prepared.get(), Entries), entry.get()) != 0) throw python_error();

  if (stays_on_cpu) {
    torch::utils::set_only_lift_cpu_tensors(true);
    process().device_guards.replace_torchs_of_cuda();
  }
  process().device_guards.lend();
  if (activates) {
    flags.claim(claims);
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
  const bool activated = item_is_true(entry, Activated);
  bool was_active = false;
  if (activated) {
    was_active = TorchDispatchModeTLS::unset_mode(TorchDispatchModeKey::FAKE).has_value();
    PyObject* replaced = PyTuple_GET_ITEM(entry.get(), Replaced);
    // Where none is active, modes are left in another order than that in which they were entered: the one
    // that was replaced may be done with, and nobody would leave it again.
    if (was_active && replaced != Py_None) activate(replaced);
    PyObject* claims = PyTuple_GET_ITEM(entry.get(), Claims);
    flags.give_up({item_is_true(claims, 0), item_is_true(claims, 1), item_is_true(claims, 2)});
  }
  // What was on before belongs to the mode that was active then, and is over if that one was left meanwhile:
  // it comes back with it, or, where this entry activated nothing, has stayed.
  PyObject* lifted_before = PyTuple_GET_ITEM(entry.get(), LiftedBefore);
  if (lifted_before == Py_False) torch::utils::set_only_lift_cpu_tensors(false);
  if (lifted_before == Py_True && was_active) torch::utils::set_only_lift_cpu_tensors(true);
  TORCH_CHECK(was_active || !activated, "Attempted to unset ",
              c10::impl::to_string(TorchDispatchModeKey::FAKE), ", but there wasn't one active.");
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

void forget_entries_of_other_threads() { ModeFlags().forget_claims_of_other_threads(); }

}  // namespace fastfake
