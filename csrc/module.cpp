// The Python module fastfake._C: bindings only.
#include "cache/cache_inspection.h"
#include "dispatch/common_device.h"
#include "dispatch/declined_calls.h"
#include "dispatch/fake_backward.h"
#include "dispatch/interpreter_hook.h"
#include "dispatch/kernel_invocation.h"
#include "dispatch/mode_entry.h"
#include "dispatch/native_detach.h"
#include "dispatch/pretended_device.h"
#include "dispatch/thread_contexts.h"
#include "memory/memory_bindings.h"
#include "objects/fake_tensor.h"
#include "objects/holding_namespaces.h"
#include "objects/native_mode.h"
#include "objects/new_fake_tensor.h"
#include "process_state.h"
#include "symbolic/node_methods.h"

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace fastfake {

namespace {

void register_classes(const py::type& fake_tensor, const py::type& fake_mode, const py::object& compare,
                      const py::object& convert, const py::object& is_given_back,
                      const py::object& lift_plain) {
  TORCH_CHECK(process().fake_mode.type == nullptr, "the classes of fake tensors are registered already");
  register_fake_tensor_class(reinterpret_cast<PyTypeObject*>(fake_tensor.ptr()));
  register_fake_mode_class(reinterpret_cast<PyTypeObject*>(fake_mode.ptr()));
  Py_XSETREF(process().crosscheck, Py_NewRef(compare.ptr()));
  Py_XSETREF(process().convert_real_tensors, Py_NewRef(convert.ptr()));
  Py_XSETREF(process().is_given_back, Py_NewRef(is_given_back.ptr()));
  Py_XSETREF(process().lift_plain, Py_NewRef(lift_plain.ptr()));
}

py::tuple cache_statistics() {
  const auto& cache = process().cache;
  py::dict bypasses;
  for (const auto& [bypass, count] : cache.statistics.bypasses) {
    const py::str reason(bypass.first.data(), bypass.first.size());
    bypasses[reason] = count + (bypasses.contains(reason) ? bypasses[reason].cast<int64_t>() : 0);
  }
  return py::make_tuple(cache.statistics.hits, cache.statistics.misses, cache.statistics.declined, bypasses,
                        cache.size());
}

py::list bypassed_operators() {
  py::list found;
  for (const auto& [bypass, count] : process().cache.statistics.bypasses) {
    const auto& [reason, id] = bypass;
    found.append(py::make_tuple(reason, c10::toString(process().operators.name(id)), count));
  }
  return found;
}

// Exchanges a key in its place. Python code that cleared the dictionary and filled it again could be
// interrupted by another thread in between.
void rename_key(const py::dict& dictionary, const py::object& old_key, const py::object& new_key) {
  const py::dict renamed;
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  for (Py_ssize_t position = 0; PyDict_Next(dictionary.ptr(), &position, &key, &value) != 0;) {
    if (PyDict_SetItem(renamed.ptr(), key == old_key.ptr() ? new_key.ptr() : key, value) != 0)
      throw python_error();
  }
  PyDict_Clear(dictionary.ptr());
  if (PyDict_Update(dictionary.ptr(), renamed.ptr()) != 0) throw python_error();
}

c10::OperatorHandle operator_named(const std::string& name, const std::string& overload) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload.c_str());
}

// The id of the operator, whether it is a custom one, and why its calls are not cached or None.
py::tuple operator_facts(const std::string& name, const std::string& overload) {
  const auto& facts = process().operators.facts(operator_named(name, overload));
  return py::make_tuple(facts.id, facts.is_custom,
                        facts.bypass == nullptr ? py::object(py::none()) : py::str(facts.bypass));
}

// A fake tensor on the device is about to exist.
py::object device_object(c10::Device device) {
  process().device_guards.provide(device.type());
  return py::reinterpret_borrow<py::object>(process().devices.object(device));
}

py::tuple common_device_of(const py::sequence& arguments, bool scalars_mix,
                           const std::optional<c10::Device>& mixes, const std::string& preferred) {
  DeviceRules rules{.scalars_mix = scalars_mix, .mixes_freely = std::nullopt, .preferred = preferred};
  if (mixes) rules.mixes_freely = mixes->type();
  const auto found = common_device(arguments.ptr(), rules);
  return py::make_tuple(found.device, found.mismatch);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  using torch::wrap_pybind_function;

  module.doc() = "The native part of fastfake: hit path, mode state and interpreter hook.";
  module.attr("built_for_torch") = FASTFAKE_BUILT_FOR_TORCH;
  module.attr("ModeState") = py::handle(reinterpret_cast<PyObject*>(mode_state_type()));

  module.def("register_classes", wrap_pybind_function(register_classes), py::arg("fake_tensor"),
             py::arg("fake_mode"), py::arg("crosscheck"), py::arg("convert"), py::arg("is_given_back"),
             py::arg("lift_plain"));
  module.def("declining_method", wrap_pybind_function([](const py::function& function) {
               return py::reinterpret_steal<py::object>(declining_method(function.ptr()));
             }),
             py::arg("function"));
  module.def("alias_of_fake", wrap_pybind_function([](const py::object& tensor) {
               return py::reinterpret_steal<py::object>(alias_of_fake(tensor.ptr()));
             }),
             py::arg("tensor"));
  module.def("note_known_storage",
             wrap_pybind_function([](const py::object& tensor, const py::object& owner) {
               return process().known_storages.add(tensor.ptr(), owner.ptr());
             }),
             py::arg("tensor"), py::arg("owner"));
  module.def("forget_known_storage",
             wrap_pybind_function([](uintptr_t storage) { process().known_storages.remove(storage); }),
             py::arg("storage"));
  module.def(
      "owner_of_known_storage", wrap_pybind_function([](const py::object& tensor) {
        return py::reinterpret_steal<py::object>(process().known_storages.owner_of(tensor.ptr()).release());
      }),
      py::arg("tensor"));
  module.def("following", [] { return thread_state.following; });
  module.def("register_symbols",
             wrap_pybind_function([](const py::type& sym_node, const py::object& news,
                                     const py::list& pre_dispatch_modes, const py::module_& logging) {
               process().symbol_tables.register_python(reinterpret_cast<PyTypeObject*>(sym_node.ptr()),
                                                       news.ptr(), pre_dispatch_modes.ptr(), logging.ptr());
             }),
             py::arg("sym_node"), py::arg("news"), py::arg("pre_dispatch_modes"), py::arg("logging"));
  module.def("install_node_methods", wrap_pybind_function(install_node_methods));
  module.def("remove_node_methods", wrap_pybind_function(remove_node_methods));
  module.def("interpreter_table_fits",
             wrap_pybind_function(interpreter_table_has_as_many_methods_as_the_hook));
  module.def("install_interpreter_hook", wrap_pybind_function(install_interpreter_hook));
  module.def("remove_interpreter_hook", wrap_pybind_function(remove_interpreter_hook));
  module.def("interpreter_hook_installed", wrap_pybind_function(interpreter_hook_installed));
  module.def("came_through_the_hook", [] { return thread_state.came_through_the_hook; });
  module.def("rename_key", wrap_pybind_function(rename_key), py::arg("dictionary"), py::arg("old_key"),
             py::arg("new_key"));
  module.def("holding_namespaces", wrap_pybind_function(holding_namespaces), py::arg("namespaces"),
             py::arg("ids"), py::arg("types"));

  module.def("observe_new_tensors",
             wrap_pybind_function([](const py::object& callable) { observe_new_tensors(callable.ptr()); }),
             py::arg("callable"));
  module.def("fake_of_plain", wrap_pybind_function([](const py::object& mode, const at::Tensor& real) {
               ModeState* state = native_mode(mode.ptr());
               TORCH_CHECK_TYPE(state != nullptr, "expected a FakeTensorMode");
               return fake_of_plain(real, mode.ptr(), state->allow_unsafe_data_ptr_access);
             }),
             py::arg("mode"), py::arg("real"));
  module.def("forget_entries_of_other_threads", wrap_pybind_function(forget_entries_of_other_threads));
  module.def("in_kernel_invocation", [] { return thread_state.inside_kernel; });
  py::class_<FakeModeRemoval>(module, "FakeModeRemoval")
      .def(py::init<>())
      .def("__enter__", wrap_pybind_function([](FakeModeRemoval& context) {
             PyObject* mode = context.enter();
             return py::reinterpret_borrow<py::object>(mode == nullptr ? Py_None : mode);
           }))
      .def("__exit__", wrap_pybind_function(
                           [](FakeModeRemoval& context, const py::args& /*exception*/) { context.leave(); }));
  py::class_<RealComputation>(module, "RealComputation")
      .def(py::init<>())
      .def("__enter__", [](RealComputation& context) { context.enter(); })
      .def("__exit__", [](RealComputation& context, const py::args& /*exception*/) { context.leave(); });
  py::class_<Following>(module, "Following")
      .def(py::init<int>(), py::arg("following"))
      .def("__enter__", [](Following& context) { context.exchange(); })
      .def("__exit__", [](Following& context, const py::args& /*exception*/) { context.exchange(); });
  py::class_<KernelInvocation>(module, "KernelInvocation")
      .def(py::init<>())
      .def("__enter__", wrap_pybind_function([](KernelInvocation& context) { context.enter(); }))
      .def("__exit__", wrap_pybind_function([](KernelInvocation& context, const py::args& /*exception*/) {
             context.leave();
           }));

  module.def(
      "is_absent", [](c10::Device device) { return process().device_guards.answers_for(device.type()); },
      py::arg("device"));
  module.def("absent_devices_were_used", [] { return process().device_guards.any_for_good(); });
  module.def("device_object", wrap_pybind_function(device_object), py::arg("device"));
  module.def("common_device", wrap_pybind_function(common_device_of), py::arg("arguments"),
             py::arg("scalars_mix"), py::arg("mixes_freely"), py::arg("preferred"));

  module.def("run_backward",
             wrap_pybind_function([](const py::object& function, const py::object& tensors,
                                     const py::tuple& args, const py::dict& kwargs) {
               return py::reinterpret_steal<py::object>(
                   run_backward(function.ptr(), tensors.ptr(), args.ptr(), kwargs.ptr()));
             }),
             py::arg("function"), py::arg("tensors"), py::arg("args"), py::arg("kwargs"));

  module.def("pretend_cuda", wrap_pybind_function(pretend_cuda), py::arg("major"), py::arg("minor"));
  module.def("stop_pretending", wrap_pybind_function(stop_pretending));
  module.def("pretends_cuda", [] { return process().pretended_device.active.load(); });
  module.def("pretended_index", [] { return static_cast<int>(thread_state.pretended_index); });
  module.def(
      "set_pretended_index",
      [](int index) { thread_state.pretended_index = static_cast<signed char>(index); }, py::arg("index"));

  module.def("cache_statistics", wrap_pybind_function(cache_statistics));
  module.def("bypassed_operators", wrap_pybind_function(bypassed_operators));
  module.def("cache_clear", wrap_pybind_function([] { process().cache.clear(); }));
  module.def("cache_key", wrap_pybind_function(cache_key), py::arg("mode"), py::arg("name"),
             py::arg("overload"), py::arg("args"), py::arg("kwargs"));
  module.def("cache_keys", wrap_pybind_function(cache_keys));
  module.def("cache_entry", wrap_pybind_function(cache_entry), py::arg("words"));
  module.def("cache_erase",
             wrap_pybind_function([](const std::vector<uint64_t>& words) { process().cache.erase(words); }),
             py::arg("words"));
  module.def("cache_bytes", wrap_pybind_function([] { return process().cache.bytes(); }));
  module.def("cache_limit", wrap_pybind_function([] { return process().cache.limit(); }));
  module.def("set_cache_limit", wrap_pybind_function([](size_t bytes) { process().cache.set_limit(bytes); }),
             py::arg("bytes"));

  module.def("watch_tables",
             wrap_pybind_function(
                 [](const py::tuple& dictionaries, const py::list& rules, const py::function& has_rule) {
                   process().registrations.watch(dictionaries.ptr(), rules.ptr(), has_rule.ptr());
                 }),
             py::arg("dictionaries"), py::arg("rules"), py::arg("has_rule"));
  module.def("note_registration", wrap_pybind_function([] { process().registrations.note(); }));
  module.def("registrations", wrap_pybind_function([] { return process().registrations.number(); }));

  module.def("operator_facts", wrap_pybind_function(operator_facts), py::arg("name"), py::arg("overload"));
  module.def("vouch_for_operator",
             wrap_pybind_function([](const std::string& name, const std::string& overload) {
               process().operators.vouch_for(operator_named(name, overload));
             }),
             py::arg("name"), py::arg("overload"));
  module.def("watch_vouched_operators",
             wrap_pybind_function(
                 [](const py::object& ids, const py::object& profiles, const py::object& no_profiles) {
                   process().vouched_operators.watch(ids.ptr(), profiles.ptr(), no_profiles.ptr());
                 }),
             py::arg("ids"), py::arg("profiles"), py::arg("no_profiles"));

  module.def("register_rules",
             wrap_pybind_function([](const py::function& rules_of, const py::function& new_work) {
               process().operator_rules.register_python(rules_of.ptr());
               process().works.register_python(new_work.ptr());
             }),
             py::arg("rules_of"), py::arg("new_work"));

  bind_memory(module);

  module.def("watch_settings", wrap_pybind_function([](const py::tuple& variables) {
               process().python_settings.watch(variables.ptr());
             }),
             py::arg("context_variables"));
}

}  // namespace fastfake
