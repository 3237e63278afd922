// CPython tells the layout of a context in a header of its own that it installs beside the public ones. It
// changes what others declare, so it is included here alone.
#if __has_include(<internal/pycore_context.h>)
#define Py_BUILD_CORE 1
#include <Python.h>
#include <internal/pycore_context.h>
#define FASTFAKE_KNOWS_CONTEXTS
#endif

#include "cache/context_variables.h"

namespace fastfake {

PyObject* values_of_context_variables() noexcept {
#ifdef FASTFAKE_KNOWS_CONTEXTS
  PyObject* context = PyThreadState_Get()->context;
  return context == nullptr ? nullptr
                            : reinterpret_cast<PyObject*>(reinterpret_cast<PyContext*>(context)->ctx_vars);
#else
  return nullptr;
#endif
}

}  // namespace fastfake
