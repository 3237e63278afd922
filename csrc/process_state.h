// All native state of the process in one place.
//
// The GIL guards it, except where a member says otherwise. It is made when the module is loaded and never
// destroyed: calls may come, and tensors die, at interpreter exit. What belongs to a thread is in
// dispatch/thread_state.h, what belongs to a mode in objects/mode_state.h.
#pragma once

#include "cache/dispatch_cache.h"
#include "cache/operator_facts.h"
#include "cache/operator_rules.h"
#include "cache/registrations.h"
#include "cache/settings.h"
#include "cache/value_numbers.h"
#include "cache/vouched_operators.h"
#include "cache/works.h"
#include "dispatch/device_guards.h"
#include "dispatch/fake_backward.h"
#include "dispatch/mode_entry.h"
#include "dispatch/pretended_device.h"
#include "dispatch/thread_state.h"
#include "memory/ledger.h"
#include "objects/instance_check.h"
#include "objects/interned_devices.h"
#include "objects/known_storages.h"
#include "objects/registered_classes.h"
#include "symbolic/symbol_table.h"

#include <torch/csrc/python_headers.h>

#include <array>

namespace fastfake {

struct ProcessState {
  FakeTensorClass fake_tensor;
  FakeModeClass fake_mode;
  InstanceCheck instance_check;
  InternedDevices devices;
  KnownStorages known_storages;
  DeviceGuards device_guards;
  FakeBackwards fake_backwards;
  std::array<ModeFlag, count_of_mode_flags> mode_flags;
  PretendedDevice pretended_device;
  OperatorTable operators;
  VouchedOperators vouched_operators;
  OperatorRules operator_rules;
  Works works;
  Registrations registrations;
  PythonSettings python_settings;
  ValueNumbers value_numbers;
  DispatchCache cache;
  SymbolTables symbol_tables;
  Ledger ledger;
  // Compares a cached answer with a computed one, for modes with crosscheck: a Python callable
  // `(name, arguments, cached, computed)` that raises when they differ. Null until classes are registered.
  PyObject* crosscheck = nullptr;
  // Makes fake tensors of real ones among the arguments: a Python callable `(mode, list of tensors)` that
  // gives a list, or None where computing the call has to tell why not. Null until classes are registered.
  PyObject* convert_real_tensors = nullptr;
  // Whether a call that writes to the known value of a fake tensor gives the tensor itself: a Python callable
  // `(mode, fake tensor)`. Null until classes are registered.
  PyObject* is_given_back = nullptr;
  // Makes the fake tensor of a plain real one that nobody knows yet: a Python callable `(mode, tensor)` that
  // gives None where it takes more than that. Null until classes are registered.
  PyObject* lift_plain = nullptr;
};

// Storage without a destructor.
union ImmortalProcessState {
  ImmortalProcessState() noexcept : state() {}  // want of memory, this early, ends the process
  ~ImmortalProcessState() {}
  ProcessState state;
};

extern ImmortalProcessState immortal_process_state;

inline ProcessState& process() noexcept { return immortal_process_state.state; }

}  // namespace fastfake
