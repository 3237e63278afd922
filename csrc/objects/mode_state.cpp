#include "objects/mode_state.h"

#include "dispatch/kernel_invocation.h"
#include "dispatch/mode_entry.h"
#include "objects/python_guards.h"
#include "process_state.h"

#include <array>
#include <limits>
#include <utility>

namespace fastfake {

namespace {

ModeState* as_state(PyObject* self) noexcept { return reinterpret_cast<ModeState*>(self); }

template <bool ModeState::* member>
PyObject* get_flag(PyObject* self, void* /*closure*/) {
  return PyBool_FromLong(as_state(self)->*member ? 1 : 0);
}

// Any truth value is taken, as an attribute of a Python object would take it.
template <bool ModeState::* member>
int set_flag(PyObject* self, PyObject* value, void* /*closure*/) {
  const int truth = PyObject_IsTrue(value);
  if (truth < 0) return -1;
  as_state(self)->*member = truth != 0;
  return 0;
}

PyObject* get_in_kernel_invocation(PyObject* self, void* /*closure*/) {
  return PyBool_FromLong(in_kernel_invocation(self) ? 1 : 0);
}

int set_in_kernel_invocation(PyObject* self, PyObject* value, void* /*closure*/) {
  HANDLE_TH_ERRORS
  const int truth = value == nullptr ? 0 : PyObject_IsTrue(value);
  if (truth < 0) return -1;
  force_kernel_invocation(*as_state(self), truth != 0);
  return 0;
  END_HANDLE_TH_ERRORS_RET(-1)
}

PyObject* get_shape_env(PyObject* self, void* /*closure*/) { return Py_NewRef(as_state(self)->shape_env); }

int set_shape_env(PyObject* self, PyObject* value, void* /*closure*/) {
  auto* state = as_state(self);
  state->shape_env_settings = value == Py_None ? 0 : ModeState::not_numbered;
  Py_SETREF(state->shape_env, Py_NewRef(value));
  return 0;
}

PyObject* get_epoch(PyObject* self, void* /*closure*/) { return PyLong_FromLongLong(as_state(self)->epoch); }

int set_epoch(PyObject* self, PyObject* value, void* /*closure*/) {
  const auto epoch = PyLong_AsLongLong(value);
  if (epoch == -1 && PyErr_Occurred() != nullptr) return -1;
  as_state(self)->epoch = epoch;
  return 0;
}

PyObject* get_known_values(PyObject* self, void* /*closure*/) {
  const auto limit = as_state(self)->known_values;
  return limit == 0 ? Py_NewRef(Py_None) : PyLong_FromUnsignedLong(limit);
}

int set_known_values(PyObject* self, PyObject* value, void* /*closure*/) {
  HANDLE_TH_ERRORS
  if (value == Py_None || value == Py_False) {
    as_state(self)->known_values = 0;
  } else if (value == Py_True) {
    as_state(self)->known_values = ModeState::known_values_by_default;
  } else {
    const auto limit = PyLong_AsLongLong(value);
    if (limit == -1 && PyErr_Occurred() != nullptr) return -1;
    TORCH_CHECK_VALUE(limit > 0 && limit <= std::numeric_limits<uint32_t>::max(),
                      "known_values must be a positive number of elements, True or None, not ", limit);
    as_state(self)->known_values = static_cast<uint32_t>(limit);
  }
  if (as_state(self)->known_values != 0) as_state(self)->has_followed_values = true;
  return 0;
  END_HANDLE_TH_ERRORS_RET(-1)
}

// A deleted attribute keeps its value for C++ and is absent for Python until it is set again. torch sets
// attributes of a mode for a while with `unittest.mock.patch.object`, which deletes them at the end, and only
// if they are absent then sets what they were before.
void raise_missing(PyObject* self, void* name) {
  PyErr_Format(PyExc_AttributeError, "'%.100s' object has no attribute '%s'", Py_TYPE(self)->tp_name,
               static_cast<const char*>(name));
}

// What deleting an attribute raises that an ordinary object does not have.
void raise_not_deleted([[maybe_unused]] PyObject* self, void* name) {
#if PY_VERSION_HEX >= 0x030B0000
  raise_missing(self, name);
#else
  PyErr_SetString(PyExc_AttributeError, static_cast<const char*>(name));
#endif
}

template <int index, getter get>
PyObject* get_unless_deleted(PyObject* self, void* closure) {
  if ((as_state(self)->deleted_attributes >> index & 1U) != 0) {
    return raise_missing(self, closure), nullptr;
  }
  return get(self, closure);
}

template <int index, setter set>
int set_or_delete(PyObject* self, PyObject* value, void* closure) {
  auto& deleted = as_state(self)->deleted_attributes;
  if (value == nullptr) {
    if ((deleted >> index & 1U) != 0) return raise_not_deleted(self, closure), -1;
    deleted |= 1U << index;
    return 0;
  }
  const int status = set(self, value, closure);
  if (status == 0) deleted &= ~(1U << index);
  return status;
}

template <int index, getter get, setter set>
constexpr PyGetSetDef attribute(const char* name, const char* doc) noexcept {
  // The last field is what the functions get as their closure.
  return {name, get_unless_deleted<index, get>, set_or_delete<index, set>, doc, const_cast<char*>(name)};
}

template <int index, bool ModeState::* member>
constexpr PyGetSetDef flag(const char* name, const char* doc) noexcept {
  return attribute<index, get_flag<member>, set_flag<member>>(name, doc);
}

PyObject* mode_state_new(PyTypeObject* type, PyObject* /*args*/, PyObject* /*kwargs*/) {
  PyObject* self = type->tp_alloc(type, 0);  // zeroed: every flag is off
  if (self != nullptr) as_state(self)->shape_env = Py_NewRef(Py_None);
  return self;
}

int mode_state_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(as_state(self)->shape_env);
  Py_VISIT(Py_TYPE(self));
  return 0;
}

// None, not null: the mode stays usable if someone resurrects it.
int mode_state_clear(PyObject* self) {
  if (as_state(self)->shape_env != nullptr) Py_SETREF(as_state(self)->shape_env, Py_NewRef(Py_None));
  return 0;
}

void drop_identity(ModeState& mode) noexcept {
  if (mode.owned_identity == nullptr) return;
  mode.owned_identity->mode = nullptr;
  c10::intrusive_ptr<ModeIdentity>::reclaim(std::exchange(mode.owned_identity, nullptr));
}

void mode_state_dealloc(PyObject* self) {
  PyObject_GC_UnTrack(self);
  Py_CLEAR(as_state(self)->shape_env);
  drop_identity(*as_state(self));
  PyTypeObject* type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);
}

constinit std::array<PyGetSetDef, 15> mode_state_attributes = {{
    flag<0, &ModeState::allow_fallback_kernels>(
        "allow_fallback_kernels", "Whether an operator without a meta kernel may run on zeros."),
    flag<1, &ModeState::allow_non_fake_inputs>(
        "allow_non_fake_inputs",
        "Whether real tensors among the arguments are converted instead of refused."),
    flag<2, &ModeState::allow_scalar_outputs>(
        "allow_scalar_outputs", "Whether `item()` may return an unbacked symbol whatever the ShapeEnv says."),
    flag<3, &ModeState::allow_meta>("allow_meta", "Whether a fake tensor may imitate a meta tensor."),
    flag<4, &ModeState::allow_unsafe_data_ptr_access>("_allow_unsafe_data_ptr_access",
                                                      "Whether `data_ptr` warns instead of raising."),
    flag<5, &ModeState::static_shapes>("static_shapes", "Whether converted tensors get integer shapes."),
    flag<6, &ModeState::propagate_real_tensors>("propagate_real_tensors",
                                                "Whether real tensors are computed along."),
    flag<7, &ModeState::cache_enabled>("cache_enabled", "Whether calls may be answered from the cache."),
    flag<8, &ModeState::cache_crosscheck_enabled>(
        "cache_crosscheck_enabled", "Whether every answer from the cache is compared with a computed one."),
    flag<9, &ModeState::tracks_leaks>(
        "_tracks_leaks", "Whether every new tensor is made in Python, which keeps track of them."),
    {"in_kernel_invocation", get_in_kernel_invocation, set_in_kernel_invocation,
     "Whether this thread computes metadata in a kernel: fake tensors of the mode say `meta` then.", nullptr},
    attribute<10, get_shape_env, set_shape_env>("shape_env", "The ShapeEnv of the mode, or None."),
    attribute<11, get_epoch, set_epoch>("epoch", "Advanced by users before each retrace on the same mode."),
    attribute<12, get_known_values, set_known_values>(
        "known_values", "The most elements of tensors whose values are followed; None where none are."),
    {nullptr, nullptr, nullptr, nullptr, nullptr},
}};

}  // namespace

namespace {

// A fake tensor in the place of a ShapeEnv is asked for its truth value by a call that needs the number of
// its settings. CPython 3.13 would let such a recursion go on until the stack ends.
class NumberingDepth {
 public:
  NumberingDepth() {
    if (depth_ == most) {
      PyErr_SetString(PyExc_RecursionError, "maximum recursion depth exceeded in the settings of a ShapeEnv");
      throw python_error();
    }
    ++depth_;
  }
  ~NumberingDepth() { --depth_; }
  NumberingDepth(const NumberingDepth&) = delete;
  NumberingDepth(NumberingDepth&&) = delete;
  NumberingDepth& operator=(const NumberingDepth&) = delete;
  NumberingDepth& operator=(NumberingDepth&&) = delete;

 private:
  static constexpr int most = 32;
  static thread_local int depth_;
};

thread_local int NumberingDepth::depth_ = 0;

}  // namespace

// ShapeEnv settings are compared by value in torch's key. Here the key holds a number for the value. As in
// torch, what is false is no ShapeEnv.
void ModeState::number_settings() const {
  const NumberingDepth depth;
  const auto env = PyRef::borrow(shape_env);
  int64_t number = 0;
  if (is_true(env.get())) {
    const auto settings = PyRef::steal(PyObject_GetAttrString(env.get(), "settings"));
    number = process().value_numbers.number_of(settings.get());
  }
  // Python code that ran may have set another ShapeEnv.
  if (shape_env == env.get()) shape_env_settings = number;
}

c10::intrusive_ptr<ModeIdentity> ModeState::identity() {
  if (owned_identity == nullptr) {
    auto made = c10::make_intrusive<ModeIdentity>();
    made->mode = this;
    owned_identity = made.release();
  }
  return c10::intrusive_ptr<ModeIdentity>::reclaim_copy(owned_identity);
}

PyTypeObject* mode_state_type() {
  static PyTypeObject* type = [] {
    std::array<PyType_Slot, 8> slots = {{
        {Py_tp_doc, const_cast<char*>("The native part of a FakeTensorMode.")},
        {Py_tp_new, reinterpret_cast<void*>(mode_state_new)},
        {Py_tp_dealloc, reinterpret_cast<void*>(mode_state_dealloc)},
        {Py_tp_traverse, reinterpret_cast<void*>(mode_state_traverse)},
        {Py_tp_clear, reinterpret_cast<void*>(mode_state_clear)},
        {Py_tp_getset, mode_state_attributes.data()},
        {Py_tp_methods, mode_entry_methods()},
        {0, nullptr},
    }};
    PyType_Spec spec = {
        .name = "fastfake._C.ModeState",
        .basicsize = sizeof(ModeState),
        .itemsize = 0,
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
        .slots = slots.data(),
    };
    return reinterpret_cast<PyTypeObject*>(PyRef::steal(PyType_FromSpec(&spec)).release());
  }();
  return type;
}

}  // namespace fastfake
