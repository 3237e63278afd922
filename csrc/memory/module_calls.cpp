#include "memory/module_calls.h"

#include <ATen/SequenceNumber.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>

namespace fastfake {

void ModuleCalls::start(PyObject* name_module, PyObject* root_called) {
  ++session_;
  name_module_ = PyRef::borrow(name_module);
  root_called_ = PyRef::borrow(root_called);
  names_.assign(1, "");
  threads_.clear();
}

void ModuleCalls::stop() {
  ++session_;
  // What dies with them may run Python, which sees them gone.
  const auto known = std::exchange(known_, {});
  const auto name_module = std::exchange(name_module_, {});
  const auto root_called = std::exchange(root_called_, {});
  threads_.clear();
}

uint32_t ModuleCalls::number_of(PyObject* module) {
  const auto found = known_.find(module);
  if (found != known_.end()) return found->second.number;
  const auto session = session_;
  const auto name_module = PyRef::borrow(name_module_.get());
  const auto name = PyRef::steal(PyObject_CallOneArg(name_module.get(), module));
  const char* text = PyUnicode_AsUTF8(name.get());
  if (text == nullptr) throw python_error();
  if (session != session_) return 0;
  const auto number = static_cast<uint32_t>(names_.size());
  names_.emplace_back(text);
  known_[module] = Known{.module = PyRef::borrow(module), .number = number};
  return number;
}

ModuleCalls::OfThread& ModuleCalls::of_this_thread() {
  return threads_[at::RecordFunction::currentThreadId()];
}

void ModuleCalls::OfThread::remember_change() {
  changes.emplace_back(at::sequence_number::peek(), innermost());
}

void ModuleCalls::enter(PyObject* module, PyObject* args) {
  const uint32_t number = number_of(module);
  if (number == 0) return;
  if (depth() == 0 && torch::autograd::get_current_graph_task_id() == -1) {
    const auto session = session_;
    const auto root_called = PyRef::borrow(root_called_.get());
    PyRef::steal(PyObject_CallFunctionObjArgs(root_called.get(), module, args, nullptr));
    if (session != session_) return;
  }
  // Looked up only now: Python may have let other threads go on, which moves them all.
  auto& here = of_this_thread();
  here.running.push_back(number);
  here.remember_change();
}

void ModuleCalls::leave(PyObject* module) {
  // Those that ended with an exception need not have told.
  const auto known = known_.find(module);
  if (known == known_.end()) return;
  auto& here = of_this_thread();
  auto& running = here.running;
  const auto found = std::find(running.rbegin(), running.rend(), known->second.number);
  if (found == running.rend()) return;
  running.erase(found.base() - 1, running.end());
  here.remember_change();
}

uint32_t ModuleCalls::of_node(const torch::autograd::Node& node) const {
  const auto thread = threads_.find(node.thread_id());
  if (thread == threads_.end()) return 0;
  const auto& changes = thread->second.changes;
  const auto after =
      std::upper_bound(changes.begin(), changes.end(), node.sequence_nr(),
                       [](uint64_t number, const auto& change) { return number < change.first; });
  return after == changes.begin() ? 0 : (after - 1)->second;
}

}  // namespace fastfake
