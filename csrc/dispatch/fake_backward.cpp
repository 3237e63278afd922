#include "dispatch/fake_backward.h"

#include "dispatch/built_accelerators.h"
#include "dispatch/thread_state.h"
#include "objects/python_guards.h"
#include "process_state.h"

#include <ATen/DeviceAccelerator.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_function.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/utils/pybind.h>

#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

namespace fastfake {

namespace {

using c10::DeviceType;
using torch::autograd::Edge;
using torch::autograd::Engine;
using torch::autograd::GraphTask;
using torch::autograd::Node;
using torch::autograd::ReadyQueue;

// The engine lets classes that derive from it at its queues.
struct EngineQueues : Engine {
  static std::vector<std::shared_ptr<ReadyQueue>>& of_devices(Engine& engine) {
    return engine.*(&EngineQueues::device_ready_queues_);
  }
  static void set_for_this_thread(Engine& engine, const std::shared_ptr<ReadyQueue>& queue) {
    (engine.*(&EngineQueues::init_local_ready_queue))(queue);
  }
};

// The pass in which this thread computes a node, or null. The engine gives a member of it away, and no more.
GraphTask* current_task() {
  auto* exec_info = torch::autograd::get_current_graph_task_exec_info();
  if (exec_info == nullptr) return nullptr;
  C10_DIAGNOSTIC_PUSH_AND_IGNORED_IF_DEFINED("-Winvalid-offsetof")
  const auto* address = reinterpret_cast<const std::byte*>(exec_info) - offsetof(GraphTask, exec_info_);
  C10_DIAGNOSTIC_POP()
  return const_cast<GraphTask*>(reinterpret_cast<const GraphTask*>(address));
}

// The type of an absent device that there are gradients on; CPU if there are none.
DeviceType absent_device_met(const std::vector<Edge>& roots) {
  const auto& guards = process().device_guards;
  std::vector<const Node*> pending;
  std::unordered_set<const Node*> seen;
  const auto visit = [&](const Edge& edge) {
    if (edge.function && seen.insert(edge.function.get()).second) pending.push_back(edge.function.get());
  };
  for (const auto& root : roots) visit(root);
  while (!pending.empty()) {
    const auto* node = pending.back();
    pending.pop_back();
    for (size_t input = 0; input < node->num_inputs(); ++input) {
      const auto& metadata = node->input_metadata(input);
      if (metadata.was_default_constructed()) continue;
      const auto type = metadata.device().type();
      if (guards.answers_for(type)) return type;
    }
    for (const auto& edge : node->next_edges()) visit(edge);
  }
  return DeviceType::CPU;
}

// Whether all devices that the engine has started threads for are ones that are not there: torch's own mode
// has had a guard in place that counts eight of CUDA.
bool has_queues_of_absent_devices_alone() {
  for (size_t index = 0; index < std::size(c10::impl::device_guard_impl_registry); ++index) {
    const auto type = static_cast<DeviceType>(index);
    const auto* guard = c10::impl::device_guard_impl_registry[index].load();
    // Those of the CPU and of meta count one, for which the engine has no thread.
    if (guard == nullptr || type == DeviceType::CPU || type == DeviceType::Meta) continue;
    if (process().device_guards.answers_for(type)) continue;
    if (guard->deviceCount() > 0) return false;
  }
  return true;
}

// Waits until no other thread goes backward on fakes.
void wait_for_turn(Engine& engine) {
  while (process().fake_backwards.under_way_in == getpid()) {
    if (PyErr_CheckSignals() != 0) throw python_error();
    const py::gil_scoped_release others_go_on;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  // The thread that was about to end the pass is not in the child of a fork; its queue is.
  if (process().fake_backwards.under_way_in != 0) EngineQueues::of_devices(engine).clear();
}

// Whether this thread computes a part of the pass that is under way: it asked for it, or works on a part of
// it that was too deep to recurse into.
bool takes_part_already(Engine& engine) {
  if (thread_state.begins_fake_backward) return true;
  const auto* task = current_task();
  const auto& of_devices = EngineQueues::of_devices(engine);
  return task != nullptr && process().fake_backwards.under_way_in == getpid() && !of_devices.empty() &&
         task->cpu_ready_queue_ == of_devices.front();
}

// The edge that a pass begins at, for one of the objects that torch's engine takes for it.
Edge root_edge(PyObject* object) {
  if (THPVariable_Check(object)) {
    const auto& tensor = THPVariable_Unpack(object);
    return tensor.requires_grad() ? torch::autograd::impl::gradient_edge(tensor) : Edge();
  }
  PyObject* attribute = PyObject_GetAttrString(object, "node");
  if (attribute == nullptr) {
    PyErr_Clear();
    return {};  // the engine says what is wrong with it
  }
  const auto node = PyRef::steal(attribute);
  if (torch::autograd::THPCppFunction_Check(node.get()))
    return {reinterpret_cast<torch::autograd::THPCppFunction*>(node.get())->cdata, 0};
  if (PyObject_TypeCheck(node.get(), &THPFunctionType))
    return {reinterpret_cast<THPFunction*>(node.get())->cdata, 0};
  return {};
}

// Whether a pass computes gradients that can be differentiated again: the third argument after the tensors.
bool creates_graph(PyObject* args, PyObject* kwargs) {
  constexpr Py_ssize_t position = 2;
  if (PyTuple_GET_SIZE(args) > position) return is_true(PyTuple_GET_ITEM(args, position));
  PyObject* value = kwargs == nullptr ? nullptr : PyDict_GetItemString(kwargs, "create_graph");
  return value != nullptr && is_true(value);
}

std::vector<Edge> root_edges(PyObject* tensors) {
  std::vector<Edge> edges;
  edges.reserve(static_cast<size_t>(PyTuple_GET_SIZE(tensors)));
  for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(tensors); ++index)
    edges.push_back(root_edge(PyTuple_GET_ITEM(tensors, index)));
  return edges;
}

}  // namespace

FakeBackward::FakeBackward(const std::vector<Edge>& roots) {
  auto& engine = Engine::get_default_engine();
  // What a hook begins in the middle of such a pass finds all that it needs.
  if (takes_part_already(engine)) return;
  const auto type = absent_device_met(roots);
  if (type == DeviceType::CPU) return;
  {
    const py::gil_scoped_release threads_of_real_devices_start;
    engine.initialize_device_threads_pool();
  }
  wait_for_turn(engine);

  auto& of_devices = EngineQueues::of_devices(engine);
  if (of_devices.empty() || has_queues_of_absent_devices_alone()) {
    // In the middle of a pass that is not of this kind the thread has a queue to come back to.
    auto* task = current_task();
    const auto queue = task == nullptr ? std::make_shared<ReadyQueue>() : task->cpu_ready_queue_;
    if (task == nullptr) EngineQueues::set_for_this_thread(engine, queue);
    is_first_ = task == nullptr;
    queues_before_ =
        std::exchange(of_devices, {static_cast<size_t>(std::numeric_limits<c10::DeviceIndex>::max()), queue});
    has_queues_ = true;
  }
  if (!at::getAccelerator().has_value()) let_count_as_built(type);
  process().device_guards.lend();
  process().fake_backwards.under_way_in = getpid();
  process().fake_backwards.type = type;
  thread_state.begins_fake_backward = true;
  active_ = true;
}

FakeBackward::~FakeBackward() {
  if (!active_) return;
  thread_state.begins_fake_backward = false;
  process().fake_backwards.type = DeviceType::CPU;
  process().fake_backwards.under_way_in = 0;
  process().device_guards.take_back();
  auto& engine = Engine::get_default_engine();
  if (has_queues_) EngineQueues::of_devices(engine) = std::move(queues_before_);
  // After an error there may be something left in the queue.
  if (is_first_) EngineQueues::set_for_this_thread(engine, std::make_shared<ReadyQueue>());
}

bool goes_backward_on_fakes(DeviceType type) {
  return process().fake_backwards.type == type &&
         (thread_state.begins_fake_backward || torch::autograd::get_current_graph_task_id() != -1);
}

bool goes_backward_on_fakes() {
  const DeviceType type = process().fake_backwards.type;
  return type != DeviceType::CPU && goes_backward_on_fakes(type);
}

void let_engine_know(c10::Stream stream) {
  auto* task = current_task();
  if (task == nullptr || stream.device_index() < 0) return;
  auto& streams = task->caller_current_streams_;
  const size_t index = static_cast<unsigned char>(stream.device_index());
  if (streams.size() <= index) streams.resize(index + 1);
  if (!streams[index].has_value()) streams[index] = stream;
}

PyObject* run_backward(PyObject* function, PyObject* tensors, PyObject* args, PyObject* kwargs) {
  const auto first = PyRef::steal(PyTuple_Pack(1, tensors));
  const auto all_args = PyRef::steal(PySequence_Concat(first.get(), args));
  std::optional<FakeBackward> fake;
  if (process().device_guards.any_for_good() && PyTuple_Check(tensors)) {
    process().device_guards.stay();
    fake.emplace(root_edges(tensors));
  }
  const auto call = [&] { return PyRef::steal(PyObject_Call(function, all_args.get(), kwargs)).release(); };
  if (C10_LIKELY(!process().ledger.is_on())) return call();
  const Ledger::BackwardPass pass(process().ledger, creates_graph(args, kwargs));
  return call();
}

}  // namespace fastfake
