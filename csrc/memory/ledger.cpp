#include "memory/ledger.h"

#include "memory/tracked_storage.h"
#include "process_state.h"

#include <ATen/record_function.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/node.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <utility>

namespace fastfake {

namespace {

bool goes_backward() { return torch::autograd::get_current_graph_task_id() != -1; }

// Those that accumulate gradients have no number from the counter.
constexpr uint64_t no_sequence_number = std::numeric_limits<uint64_t>::max();

}  // namespace

bool Ledger::follows(PyObject* mode) {
  if (C10_UNLIKELY(mode_.get() == nullptr)) mode_ = PyRef::borrow(mode);
  return mode_.get() == mode;
}

void Ledger::start(PyObject* mode, PyObject* name_module, PyObject* root_called,
                   std::vector<std::string> skipped) {
  TORCH_CHECK(!is_on(), "a memory tracker is on already");
  mode_ = mode == Py_None ? PyRef() : PyRef::borrow(mode);
  modules_.start(name_module, root_called);
  lines_.start(std::move(skipped));
  watched_.clear();
  threads_.clear();
  steps_ = storages_ = 0;
  last_phase_ = Phase::Forward;
  forget_events();
  session_ = ++sessions_;
}

void Ledger::stop() {
  session_ = 0;
  modules_.stop();
  lines_.stop();
  const auto mode = std::exchange(mode_, PyRef());
}

void Ledger::leave_optimizer() {
  of_this_thread().in_optimizer = false;
  ++steps_;
}

Ledger::OfThread& Ledger::of_this_thread() { return threads_[at::RecordFunction::currentThreadId()]; }

Phase Ledger::phase() {
  const auto& here = of_this_thread();
  if (goes_backward()) {
    const bool in_module = modules_.depth() > here.depth_at_backward;
    return in_module || (c10::GradMode::is_enabled() && !here.creates_graph) ? Phase::Recomputation
                                                                             : Phase::Backward;
  }
  // An optimizer may call the model.
  return here.in_optimizer && modules_.depth() == 0 ? Phase::Optimizer : Phase::Forward;
}

uint32_t Ledger::module() {
  if (!goes_backward() || modules_.depth() > of_this_thread().depth_at_backward) return modules_.innermost();
  const auto node = torch::autograd::get_current_node();
  if (!node || node->sequence_nr() == no_sequence_number) return 0;
  return modules_.of_node(*node);
}

Origin Ledger::origin(uint32_t op) {
  Origin origin{.op = op, .module = module(), .line = lines_.current(), .step = steps_, .phase = phase()};
  if (origin.phase != last_phase_) {
    last_phase_ = origin.phase;
    add({.kind = EventKind::Phase, .detail = static_cast<uint8_t>(origin.phase)});
  }
  return origin;
}

void Ledger::add(Event event) {
  event.moment = moments_.fetch_add(1, std::memory_order_relaxed);
  events_.push_back(event);
}

void Ledger::forget_events() {
  events_.clear();
  for (auto* tag = dead_.exchange(nullptr); tag != nullptr;) delete std::exchange(tag, tag->died_before);
  moments_ = 0;
}

void Ledger::note(c10::StorageImpl& storage, c10::Device device, uint32_t op) {
  auto* tag = tag_of(storage);
  if (tag != nullptr && tag->session == session_) {
    const int64_t bytes = bytes_of(storage);
    if (C10_LIKELY(tag->bytes == bytes)) return;
    tag->bytes = bytes;
    return add({.kind = EventKind::Resize,
                .device = tag->device,
                .storage = tag->number,
                .bytes = bytes,
                .origin = origin(op)});
  }
  // What an earlier tracker knew is not shared with anything of this one.
  auto fresh = std::make_unique<TrackedStorage>();
  fresh->session = session_;
  fresh->number = ++storages_;
  fresh->bytes = bytes_of(storage);
  fresh->device = device;
  add({.kind = EventKind::Birth,
       .device = device,
       .storage = fresh->number,
       .bytes = fresh->bytes,
       .origin = origin(op)});
  put_tag(storage, fresh.release());
}

void Ledger::note_alias(c10::StorageImpl& alias, c10::StorageImpl& storage) {
  auto* tag = tag_of(storage);
  if (tag == nullptr || &alias == &storage || tag_of(alias) != nullptr) return;
  tag->owners.fetch_add(1, std::memory_order_relaxed);
  put_tag(alias, tag);
}

void Ledger::note_role(c10::StorageImpl& storage, c10::Device device, uint8_t role, uint32_t module) {
  note(storage, device, /*op=*/0);
  auto* tag = tag_of(storage);
  if (std::exchange(tag->role, role) == role) return;
  add({.kind = EventKind::Role,
       .detail = role,
       .device = tag->device,
       .storage = tag->number,
       .bytes = tag->bytes,
       .origin = {.module = module}});
}

void Ledger::note_size(c10::StorageImpl& storage) {
  const auto* tag = tag_of(storage);
  if (tag != nullptr && tag->session == session_) note(storage, tag->device, /*op=*/0);
}

void Ledger::note_death(TrackedStorage* tag) noexcept {
  if (tag->session != session_) {
    delete tag;
    return;
  }
  tag->died = moments_.fetch_add(1, std::memory_order_relaxed);
  tag->died_before = dead_.load(std::memory_order_relaxed);
  while (!dead_.compare_exchange_weak(tag->died_before, tag, std::memory_order_release)) {
  }
}

PyRef Ledger::events() const {
  auto events = events_;
  for (const auto* tag = dead_.load(std::memory_order_acquire); tag != nullptr; tag = tag->died_before) {
    // One that died while the tracker changed may be the last one's.
    if (tag->session == sessions_)
      events.push_back({.moment = tag->died, .kind = EventKind::Death, .storage = tag->number});
  }
  std::ranges::sort(events, {}, &Event::moment);
  py::list list;
  py::dict operators;
  for (const auto& event : events) {
    const auto& origin = event.origin;
    if (origin.op != 0 && !operators.contains(py::int_(origin.op)))
      operators[py::int_(origin.op)] = c10::toString(process().operators.name(origin.op));
    list.append(py::make_tuple(static_cast<int>(event.kind), event.storage, event.bytes, event.detail,
                               py::handle(process().devices.object(event.device)), origin.op, origin.module,
                               origin.line, static_cast<int>(origin.phase), origin.step));
  }
  return PyRef::steal(
      py::make_tuple(list, operators, py::cast(modules_.names()), py::cast(lines_.texts())).release().ptr());
}

Ledger::BackwardPass::BackwardPass(Ledger& ledger, bool creates_graph)
    : ledger_(ledger),
      depth_before_(std::exchange(ledger.of_this_thread().depth_at_backward, ledger.modules_.depth())),
      creates_graph_before_(std::exchange(ledger.of_this_thread().creates_graph, creates_graph)) {}

Ledger::BackwardPass::~BackwardPass() {
  auto& here = ledger_.of_this_thread();
  here.depth_at_backward = depth_before_;
  here.creates_graph = creates_graph_before_;
}

}  // namespace fastfake
