#include "dispatch/native_detach.h"

#include "dispatch/mode_stack.h"
#include "objects/fake_tensor.h"
#include "objects/native_mode.h"
#include "objects/new_fake_tensor.h"
#include "objects/python_guards.h"

#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/python_variable.h>

#include <typeinfo>

namespace fastfake {

namespace {

bool has_plain_aliases(const c10::TensorImpl& self, const FakeTensorView& fake) {
  return fake && fake.is_plain() && typeid(self) == typeid(c10::TensorImpl) && self.has_storage() &&
         self.storage().device_type() == c10::kMeta && !c10::InferenceMode::is_enabled() &&
         self.version_counter().enabled();
}

at::Tensor make_alias(const c10::TensorImpl& self, const FakeTensorView& fake) {
  // Making the alias can run Python code, which may take the mode from the tensor.
  const auto keep = PyRef::borrow(fake.mode());
  return adopt_as_fake(clone_on_storage(self, self.storage()), keep.get(),
                       process().devices.object(fake.device()));
}

}  // namespace

c10::intrusive_ptr<c10::TensorImpl> detach_fake(const c10::TensorImpl& self) {
  const auto fake = FakeTensorView::of(&self);
  if (!has_plain_aliases(self, fake)) return {};
  PyObject* top = top_mode();
  if (top == nullptr ? !dispatches_natively(Py_TYPE(fake.object())) : top != fake.mode()) return {};
  const ModeState* mode = native_mode(fake.mode());
  if (mode == nullptr || !mode->answers_from_cache() || mode->cache_crosscheck_enabled) return {};
  ++process().cache.statistics.hits;
  return make_alias(self, fake).getIntrusivePtr();
}

PyObject* alias_of_fake(PyObject* tensor) {
  const auto fake = FakeTensorView::of(tensor);
  if (!fake || !fake.is_exactly_fake_tensor()) Py_RETURN_NONE;
  const at::Tensor keep = THPVariable_Unpack(tensor);
  const auto& self = *keep.unsafeGetTensorImpl();
  if (!has_plain_aliases(self, fake)) Py_RETURN_NONE;
  return THPVariable_Wrap(make_alias(self, fake));
}

}  // namespace fastfake
