#include "dispatch/native_detach.h"

#include "dispatch/mode_stack.h"
#include "objects/fake_tensor.h"
#include "objects/native_mode.h"
#include "objects/new_fake_tensor.h"
#include "objects/python_guards.h"

#include <c10/core/InferenceMode.h>

#include <typeinfo>

namespace fastfake {

c10::intrusive_ptr<c10::TensorImpl> detach_fake(const c10::TensorImpl& self) {
  const auto fake = FakeTensorView::of(&self);
  if (!fake || !fake.is_plain() || self.has_symbolic_sizes_strides() ||
      typeid(self) != typeid(c10::TensorImpl) || !self.has_storage() || c10::InferenceMode::is_enabled() ||
      !self.version_counter().enabled()) {
    return {};
  }
  PyObject* top = top_mode();
  if (top == nullptr ? !dispatches_natively(Py_TYPE(fake.object())) : top != fake.mode()) return {};
  const ModeState* mode = native_mode(fake.mode());
  if (mode == nullptr || !mode->answers_from_cache() || mode->cache_crosscheck_enabled) return {};
  // Making the alias can run Python code, which may take the mode from the tensor.
  const auto keep = PyRef::borrow(fake.mode());
  ++process().cache.statistics.hits;
  auto alias = clone_on_storage(self, self.storage());
  return adopt_as_fake(std::move(alias), keep.get(), process().devices.object(fake.device()))
      .getIntrusivePtr();
}

}  // namespace fastfake
