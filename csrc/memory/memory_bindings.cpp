#include "memory/memory_bindings.h"

#include "dispatch/thread_state.h"
#include "memory/tracked_call.h"
#include "memory/tracked_storage.h"
#include "objects/fake_tensor.h"
#include "process_state.h"

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/Storage.h>
#include <torch/csrc/autograd/python_variable.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace fastfake {

namespace {

// Calls `visit(storage, device)` if `tensor` is a fake tensor of the mode that is followed, and has a
// storage.
template <typename Visit>
void visit_storage(PyObject* tensor, const Visit& visit) {
  if (!process().ledger.is_on() || !THPVariable_Check(tensor)) return;
  const auto fake = FakeTensorView::of(tensor);
  if (!fake || !process().ledger.follows(fake.mode())) return;
  const at::Tensor keep = THPVariable_Unpack(tensor);
  if (!keep.unsafeGetTensorImpl()->has_storage()) return;
  visit(*keep.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl(), fake.device());
}

bool is_followed(const py::handle& tensor) {
  if (!process().ledger.is_on()) return false;
  const auto fake = FakeTensorView::of(tensor.ptr());
  return fake && process().ledger.follows(fake.mode());
}

// A fake tensor that Python made. Inside of a call, what comes of that counts.
void note_tensor(const py::handle& tensor) {
  if (thread_state.inside_tracked_call) return;
  visit_storage(tensor.ptr(), [](c10::StorageImpl& storage, c10::Device device) {
    process().ledger.note(storage, device, /*op=*/0);
  });
}

void note_role(const py::handle& tensor, uint8_t role, bool unless_it_has_one, const py::handle& module) {
  if (!is_followed(tensor)) return;
  auto& ledger = process().ledger;
  // First, as it may call Python, during which another thread may end the tracker.
  const uint32_t number = module.is_none() ? 0 : ledger.modules().number_of(module.ptr());
  visit_storage(tensor.ptr(), [&](c10::StorageImpl& storage, c10::Device device) {
    ledger.note(storage, device, /*op=*/0);
    if (unless_it_has_one && tag_of(storage)->role != 0) return;
    ledger.note_role(storage, device, role, number);
  });
}

void note_size(const py::handle& storage) {
  if (!process().ledger.is_on() || !THPStorage_Check(storage.ptr())) return;
  process().ledger.note_size(*THPStorage_Unpack(storage.ptr()).unsafeGetStorageImpl());
}

// A `with` block during which nothing counts on this thread.
class Unnoticed {
 public:
  void enter() { inside_.emplace(); }
  void leave() { inside_.reset(); }

 private:
  std::optional<InsideOfCall> inside_;
};

}  // namespace

void bind_memory(py::module_& module) {
  using torch::wrap_pybind_function;

  module.def("memory_start",
             wrap_pybind_function([](const py::object& mode, const py::function& name_module,
                                     const py::function& root_called, std::vector<std::string> skipped) {
               process().ledger.start(mode.ptr(), name_module.ptr(), root_called.ptr(), std::move(skipped));
             }),
             py::arg("mode"), py::arg("name_module"), py::arg("root_called"), py::arg("skipped"));
  module.def("memory_stop", wrap_pybind_function([] { process().ledger.stop(); }));
  module.def("memory_is_tracked", [] { return process().ledger.is_on(); });
  module.def("memory_events", wrap_pybind_function([] {
               return py::reinterpret_steal<py::object>(process().ledger.events().release());
             }));
  module.def("memory_steps", [] { return process().ledger.steps(); });

  module.def("memory_follows", wrap_pybind_function(is_followed), py::arg("tensor"));
  module.def("memory_note", wrap_pybind_function(note_tensor), py::arg("tensor"));
  module.def("memory_note_role", wrap_pybind_function(note_role), py::arg("tensor"), py::arg("role"),
             py::arg("unless_it_has_one") = false, py::arg("module") = py::none());
  module.def("memory_note_size", wrap_pybind_function(note_size), py::arg("storage"));

  module.def("memory_watch_argument",
             wrap_pybind_function([](const std::string& name, const std::string& overload, size_t index,
                                     uint8_t role) {
               const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload.c_str());
               const auto& facts = process().operators.facts(op);
               process().ledger.watch_argument(static_cast<uint32_t>(facts.id), index, role);
             }),
             py::arg("name"), py::arg("overload"), py::arg("index"), py::arg("role"));
  module.def("memory_enter_module",
             wrap_pybind_function([](const py::handle& called, const py::handle& args) {
               if (process().ledger.is_on()) process().ledger.modules().enter(called.ptr(), args.ptr());
             }),
             py::arg("module"), py::arg("args"));
  module.def("memory_leave_module",
             wrap_pybind_function(
                 [](const py::handle& called, const py::handle& /*args*/, const py::handle& /*output*/) {
                   if (process().ledger.is_on()) process().ledger.modules().leave(called.ptr());
                 }),
             py::arg("module"), py::arg("args"), py::arg("output"));
  module.def("memory_enter_optimizer", [] { process().ledger.enter_optimizer(); });
  module.def("memory_leave_optimizer", [] { process().ledger.leave_optimizer(); });

  py::class_<Unnoticed>(module, "MemoryUnnoticed")
      .def(py::init<>())
      .def("__enter__", &Unnoticed::enter)
      .def("__exit__", [](Unnoticed& context, const py::args& /*exception*/) { context.leave(); });
}

}  // namespace fastfake
