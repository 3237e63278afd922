#include "dispatch/thread_contexts.h"

#include <torch/csrc/PyInterpreter.h>

namespace fastfake {

PyObject* WithoutFakeMode::active() const { return active_ ? (*active_)->ptr(getPyInterpreter()) : nullptr; }

}  // namespace fastfake
