// The state of a FakeTensorMode that the hit path reads.
//
// ModeState is a C type from which the Python class FakeTensorMode derives, so the fields below are
// part of the mode object itself. Python sees each as an attribute; there is no second copy.
#pragma once

#include "cache/kept.h"

#include "dispatch/kernel_invocation.h"
#include "dispatch/thread_state.h"

#include <torch/csrc/python_headers.h>

#include <cstdint>

namespace fastfake {

struct ModeState {
  PyObject_HEAD PyObject* shape_env;  // None or the mode's ShapeEnv
  // A number for the value of shape_env.settings, taken when a key first needs it; 0 without a ShapeEnv.
  mutable int64_t shape_env_settings;
  int64_t epoch;
  // The most elements of tensors whose values are followed; 0 where none are, besides those that torch
  // follows.
  uint32_t known_values;
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
  bool has_followed_values;  // known_values was set at some time, so that there may be values to be forgotten
  uint32_t deleted_attributes;   // bits: which attributes Python deleted and did not set again
  ModeIdentity* owned_identity;  // null until somebody asks for it

  static constexpr int64_t not_numbered = -1;
  // What `known_values = True` means.
  static constexpr uint32_t known_values_by_default = 1024;
  // Throws what torch raises when it needs settings that are missing or cannot be hashed.
  void number_settings() const;

  // What stands for this mode where it need not be kept alive.
  c10::intrusive_ptr<ModeIdentity> identity();

  // Whether results get values now. While a call is computed they do not, and all answers are those of a mode
  // without known values.
  bool follows_values() const noexcept {
    return kept("mode: known values", known_values) != 0 &&
           !kept("thread: values are not followed", thread_state.following != 0);
  }

  // Leaks are found by having every new tensor pass through the Python constructor, which hits do not call.
  bool answers_from_cache() const noexcept {
    return cache_enabled && !kept("rule: leaks are tracked", tracks_leaks);
  }

  // The flags on which the result of a call can depend, as bits of a cache key. Bit 5 is the thread's. Where
  // bit 7 is set, another word tells how many elements known values may have.
  uint64_t key_bits() const {
    if (C10_UNLIKELY(shape_env_settings == not_numbered)) number_settings();
    return static_cast<uint64_t>(kept("mode: fallback kernels", allow_fallback_kernels)) |
           static_cast<uint64_t>(kept("mode: scalar outputs", allow_scalar_outputs)) << 1 |
           static_cast<uint64_t>(kept("mode: meta", allow_meta)) << 2 |
           static_cast<uint64_t>(kept("mode: unsafe data_ptr", allow_unsafe_data_ptr_access)) << 3 |
           static_cast<uint64_t>(kept("mode: static shapes", static_shapes)) << 4 |
           static_cast<uint64_t>(kept("mode: real inputs", allow_non_fake_inputs)) << 6 |
           static_cast<uint64_t>(follows_values()) << 7 |
           static_cast<uint64_t>(kept("mode: settings of the ShapeEnv", shape_env_settings)) << 8;
  }
};

// The Python type object of ModeState, made on first use. A borrowed reference.
PyTypeObject* mode_state_type();

}  // namespace fastfake
