// The state of a FakeTensorMode that the hit path reads.
//
// ModeState is a C type from which the Python class FakeTensorMode derives, so the fields below are
// part of the mode object itself. Python sees each as an attribute; there is no second copy.
#pragma once

#include "cache/kept.h"

#include "dispatch/kernel_invocation.h"

#include <torch/csrc/python_headers.h>

#include <cstdint>

namespace fastfake {

struct ModeState {
  PyObject_HEAD PyObject* shape_env;  // None or the mode's ShapeEnv
  // A number for the value of shape_env.settings, taken when a key first needs it; 0 without a ShapeEnv.
  mutable int64_t shape_env_settings;
  int64_t epoch;
  bool allow_fallback_kernels;
  bool allow_non_fake_inputs;
  bool allow_scalar_outputs;
  bool allow_meta;
  bool allow_unsafe_data_ptr_access;
  bool static_shapes;
  bool propagate_real_tensors;
  bool cache_enabled;
  bool cache_crosscheck_enabled;
  bool tracks_leaks;
  uint32_t deleted_attributes;   // bits: which attributes Python deleted and did not set again
  ModeIdentity* owned_identity;  // null until somebody asks for it

  static constexpr int64_t not_numbered = -1;
  // Throws what torch raises when it needs settings that are missing or cannot be hashed.
  void number_settings() const;

  // What stands for this mode where it need not be kept alive.
  c10::intrusive_ptr<ModeIdentity> identity();

  // Leaks are found by having every new tensor pass through the Python constructor, which hits do not call.
  bool answers_from_cache() const noexcept {
    return cache_enabled && !kept("rule: leaks are tracked", tracks_leaks);
  }

  // The flags on which the result of a call can depend, as bits of a cache key.
  uint64_t key_bits() const {
    if (C10_UNLIKELY(shape_env_settings == not_numbered)) number_settings();
    return static_cast<uint64_t>(kept("mode: fallback kernels", allow_fallback_kernels)) |
           static_cast<uint64_t>(kept("mode: scalar outputs", allow_scalar_outputs)) << 1 |
           static_cast<uint64_t>(kept("mode: meta", allow_meta)) << 2 |
           static_cast<uint64_t>(kept("mode: unsafe data_ptr", allow_unsafe_data_ptr_access)) << 3 |
           static_cast<uint64_t>(kept("mode: static shapes", static_shapes)) << 4 |
           static_cast<uint64_t>(kept("mode: real inputs", allow_non_fake_inputs)) << 6 |
           static_cast<uint64_t>(kept("mode: settings of the ShapeEnv", shape_env_settings)) << 8;
  }
};

// The Python type object of ModeState, made on first use. A borrowed reference.
PyTypeObject* mode_state_type();

}  // namespace fastfake
