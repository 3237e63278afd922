// Small RAII helpers around the CPython API. Nothing here knows about tensors.
#pragma once

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/python_headers.h>

#include <utility>

namespace fastfake {

// Holds the GIL for a scope. Autograd calls the interpreter hook from threads and frames that do not have it.
// Threads that Python knows, which is nearly all, take it without the bookkeeping of PyGILState_Ensure.
class GilGuard {
 public:
  GilGuard() : thread_(PyGILState_GetThisThreadState()) {
    if (C10_UNLIKELY(thread_ == nullptr)) {
      unknown_thread_ = PyGILState_Ensure();
    } else if (thread_ != _PyThreadState_UncheckedGet()) {
      PyEval_RestoreThread(thread_);
      taken_ = true;
    }
  }
  ~GilGuard() {
    if (C10_UNLIKELY(thread_ == nullptr)) {
      PyGILState_Release(unknown_thread_);
    } else if (taken_) {
      PyEval_SaveThread();
    }
  }
  GilGuard(const GilGuard&) = delete;
  GilGuard(GilGuard&&) = delete;
  GilGuard& operator=(const GilGuard&) = delete;
  GilGuard& operator=(GilGuard&&) = delete;

 private:
  PyThreadState* thread_;
  bool taken_ = false;
  PyGILState_STATE unknown_thread_ = PyGILState_UNLOCKED;
};

// An owned Python reference.
class PyRef {
 public:
  PyRef() = default;
  // Takes over `object`; a null one means that a Python call failed, and throws its error.
  static PyRef steal(PyObject* object) {
    if (object == nullptr) throw python_error();
    return PyRef(object);
  }
  static PyRef borrow(PyObject* object) { return PyRef(Py_NewRef(object)); }
  ~PyRef() { Py_XDECREF(object_); }
  PyRef(PyRef&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  PyRef& operator=(PyRef&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  PyRef(const PyRef&) = delete;
  PyRef& operator=(const PyRef&) = delete;

  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }

 private:
  explicit PyRef(PyObject* object) : object_(object) {}
  PyObject* object_ = nullptr;
};

// The value of a context variable on this thread; None where it has none. Throws what Python raises.
inline PyRef value_of(PyObject* context_variable) {
  PyObject* value = nullptr;
  if (PyContextVar_Get(context_variable, Py_None, &value) != 0) throw python_error();
  return PyRef::steal(value);
}

// What Python takes `value` for where it asks for a truth value.
inline bool is_true(PyObject* value) {
  const int truth = PyObject_IsTrue(value);
  if (truth < 0) throw python_error();
  return truth != 0;
}

}  // namespace fastfake
