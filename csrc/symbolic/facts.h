// What a ShapeEnv knows of its symbols: guards, replacements, ranges, assertions, settings.
#pragma once

#include <torch/csrc/python_headers.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace fastfake {

// A digest that differs after whatever a ShapeEnv learned or forgot. What an operator gives for symbolic
// arguments depends on these facts, since they decide conditions and simplify expressions.
class Facts {
 public:
  // The facts of `shape_env` now; nothing if it does not keep them as torch's class does. Needs the GIL.
  static std::optional<Facts> of(PyObject* shape_env);

  bool operator==(const Facts& other) const = default;

 private:
  static constexpr size_t count = 11;
  std::array<uint64_t, count> words_{};
};

// Whether what the ShapeEnv would learn by a computation now is forgotten, or refused: guards are suppressed
// on this thread, or the ShapeEnv is frozen. Calls Python.
bool learns_nothing(PyObject* shape_env);

}  // namespace fastfake
