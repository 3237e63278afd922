#include "dispatch/real_arguments.h"

#include "dispatch/thread_contexts.h"
#include "objects/fake_tensor.h"
#include "objects/python_guards.h"

#include <torch/csrc/autograd/python_variable.h>

#include <utility>

namespace fastfake {

void RealArguments::find_in(c10::IValue& argument) {
  if (argument.isTensor()) return note(argument.toTensor(), {&argument, 0});
  if (!argument.isList()) return;
  const auto elements = argument.toListRef();
  for (size_t i = 0; i < elements.size(); ++i) {
    if (elements[i].isTensor()) note(elements[i].toTensor(), {&argument, i});
  }
}

void RealArguments::note(const at::Tensor& tensor, Place place) {
  if (!tensor.defined()) return;
  if (FakeTensorView::of(tensor.unsafeGetTensorImpl())) {
    has_fake_ = true;
  } else if (!tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
    tensors_.push_back(tensor);
    places_.push_back(place);
  }
}

bool RealArguments::convert(PyObject* mode) {
  const auto real = PyRef::steal(PyList_New(static_cast<Py_ssize_t>(tensors_.size())));
  for (size_t i = 0; i < tensors_.size(); ++i) {
    PyList_SET_ITEM(real.get(), static_cast<Py_ssize_t>(i),
                    PyRef::steal(THPVariable_Wrap(tensors_[i])).release());
  }
  WithoutFakeMode inactive;
  const auto converted =
      PyRef::steal(PyObject_CallFunctionObjArgs(process().convert_real_tensors, mode, real.get(), nullptr));
  inactive.restore();
  if (converted.get() == Py_None) return false;
  TORCH_CHECK_TYPE(
      PyList_CheckExact(converted.get()) && PyList_GET_SIZE(converted.get()) == PyList_GET_SIZE(real.get()),
      "each real tensor must have a fake one");
  const c10::IValue* copied = nullptr;
  for (size_t i = 0; i < places_.size(); ++i) {
    const auto& fake = THPVariable_Unpack(PyList_GET_ITEM(converted.get(), static_cast<Py_ssize_t>(i)));
    auto& argument = *places_[i].argument;
    if (argument.isTensor()) {
      argument = fake;
      continue;
    }
    // The list is the caller's.
    if (std::exchange(copied, &argument) != &argument) argument = argument.toList().copy();
    argument.toList().set(places_[i].element, fake);
  }
  return true;
}

}  // namespace fastfake
