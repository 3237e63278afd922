// What a memory tracker is told: when storages of fake tensors came, changed their size, turned out to be for
// something, and went.
//
// One tracker at a time is on in a process. While none is, calls look at one flag. Storages carry a tag for
// it (tracked_storage.h), whose end is theirs, whoever lets go of them, with the GIL or without.
#pragma once

#include "memory/module_calls.h"
#include "memory/python_lines.h"
#include "objects/mode_state.h"
#include "objects/python_guards.h"

#include <c10/core/Device.h>
#include <c10/core/StorageImpl.h>
#include <c10/util/flat_hash_map.h>
#include <torch/csrc/python_headers.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace fastfake {

struct TrackedStorage;

// What the program is doing. Python's `Phase` has them in this order.
enum class Phase : uint8_t { Forward, Backward, Recomputation, Optimizer };

// What an event tells. Python's `timeline_of` knows them by these numbers.
enum class EventKind : uint8_t {
  Birth,
  Resize,
  Death,
  Role,   // what a storage is for, as `detail`, a number that Python gives a meaning
  Phase,  // which phase begins, as `detail`
};

// Who allocated.
struct Origin {
  uint32_t op = 0;      // the id of the operator's facts; 0 for none
  uint32_t module = 0;  // see ModuleCalls
  uint32_t line = 0;    // see PythonLines
  uint32_t step = 0;    // how many steps optimizers had taken
  Phase phase = Phase::Forward;
};

struct Event {
  uint64_t moment = 0;
  EventKind kind = EventKind::Birth;
  uint8_t detail = 0;
  c10::Device device = c10::kCPU;
  uint32_t storage = 0;
  int64_t bytes = 0;   // of the storage, from now on
  Origin origin = {};  // of a birth or a resize; of a role, its module
};

// The GIL guards it, but for what says otherwise.
class Ledger {
 public:
  // Needs no GIL.
  bool is_on() const noexcept { return session_.load(std::memory_order_relaxed) != 0; }
  // Whether calls under this mode count. Where no mode is named, the first one that computes a call is meant.
  bool follows(PyObject* mode);

  // `mode` is a FakeTensorMode or None, the callables are those of ModuleCalls, and `skipped` are the
  // beginnings of the names of files that are not the user's. Throws if a tracker is on.
  void start(PyObject* mode, PyObject* name_module, PyObject* root_called, std::vector<std::string> skipped);
  void stop();

  // Makes sure that a storage on `device` is known, and that its size is. `op` is what made or changed it.
  void note(c10::StorageImpl& storage, c10::Device device, uint32_t op);
  // Says that `alias`, which nobody has seen, is the memory of `storage`.
  void note_alias(c10::StorageImpl& alias, c10::StorageImpl& storage);
  // `module` is the number of the module that it is for, or 0.
  void note_role(c10::StorageImpl& storage, c10::Device device, uint8_t role, uint32_t module);
  // A change of the size of a storage that is known, by another way than an operator.
  void note_size(c10::StorageImpl& storage);
  // Called when nobody has the storage of `tag` any more, which the ledger owns from then on. Needs no GIL,
  // and takes no lock, which a fork could leave held in the child for ever.
  void note_death(TrackedStorage* tag) noexcept;

  // From now on an argument of the operator with these facts, by its index, has a role.
  void watch_argument(uint32_t op, size_t index, uint8_t role) { watched_[op] = {index, role}; }
  struct WatchedArgument {
    size_t index;
    uint8_t role;
  };
  // Null for most operators.
  const WatchedArgument* watched_argument(uint32_t op) const {
    const auto found = watched_.find(op);
    return found == watched_.end() ? nullptr : &found->second;
  }

  void enter_optimizer() { of_this_thread().in_optimizer = true; }
  void leave_optimizer();
  uint32_t steps() const { return steps_; }

  ModuleCalls& modules() { return modules_; }

  // A list of tuples, and what their numbers mean: operators, modules and lines by number.
  PyRef events() const;

  // A pass through autograd's engine, which begins on this thread.
  class BackwardPass {
   public:
    BackwardPass(Ledger& ledger, bool creates_graph);
    ~BackwardPass();
    BackwardPass(const BackwardPass&) = delete;
    BackwardPass& operator=(const BackwardPass&) = delete;

   private:
    Ledger& ledger_;
    size_t depth_before_;
    bool creates_graph_before_;
  };

 private:
  // Other threads may train other models, or parts of the same.
  struct OfThread {
    size_t depth_at_backward = 0;  // of calls of modules
    bool creates_graph = false;
    bool in_optimizer = false;
  };
  OfThread& of_this_thread();

  Phase phase();
  uint32_t module();
  Origin origin(uint32_t op);
  void add(Event event);
  void forget_events();

  std::atomic<uint64_t> session_ = 0;
  uint64_t sessions_ = 0;
  PyRef mode_;
  ModuleCalls modules_;
  PythonLines lines_;
  ska::flat_hash_map<uint32_t, WatchedArgument> watched_;
  ska::flat_hash_map<uint64_t, OfThread> threads_;  // by torch's numbers of threads
  uint32_t steps_ = 0;
  Phase last_phase_ = Phase::Forward;
  uint32_t storages_ = 0;
  std::atomic<uint64_t> moments_ = 0;
  std::vector<Event> events_;                    // all but deaths
  std::atomic<TrackedStorage*> dead_ = nullptr;  // the last one that died, which knows the one before
};

}  // namespace fastfake
