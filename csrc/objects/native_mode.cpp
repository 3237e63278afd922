#include "objects/native_mode.h"

#include "process_state.h"

#include <c10/util/Exception.h>

namespace fastfake {

void register_fake_mode_class(PyTypeObject* type) {
  TORCH_CHECK_TYPE(PyType_IsSubtype(type, mode_state_type()) != 0, type->tp_name,
                   " must derive from ModeState");
  auto& registered = process().fake_mode;
  registered.dispatch.expect(type, "__torch_dispatch__", "dispatch");
  Py_INCREF(type);
  registered.type = type;
}

ModeState* native_mode(PyObject* mode) noexcept {
  auto& registered = process().fake_mode;
  PyTypeObject* type = Py_TYPE(mode);
  if (!registered.is_base_of(type) || !registered.dispatch.holds_for(type) ||
      registered.dispatch.hidden_by(mode)) {
    return nullptr;
  }
  return reinterpret_cast<ModeState*>(mode);
}

}  // namespace fastfake
