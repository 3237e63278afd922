// torch's record of a symbolic shape. What it derives from the sizes and strides is remembered there, and
// private.
#pragma once

#include <c10/core/SymbolicShapeMeta.h>
#include <c10/core/TensorImpl.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace fastfake {

// The record of `impl`; null for a tensor whose sizes, strides and offset are plain numbers.
c10::SymbolicShapeMeta* symbolic_shape_of(c10::TensorImpl& impl) noexcept;
const c10::SymbolicShapeMeta* symbolic_shape_of(const c10::TensorImpl& impl) noexcept;

// What a record remembers.
class ShapeMemo {
 public:
  explicit ShapeMemo(c10::SymbolicShapeMeta& meta) : meta_(meta) {}

  // The answers to questions about strides, in torch's order: contiguous, contiguous in channels-last memory
  // formats (2d, 3d), strided as they are (2d, 3d), non-overlapping and dense.
  static constexpr size_t answers = 6;
  static constexpr size_t contiguous = 0;
  static constexpr size_t dense = answers - 1;

  bool has_numel() const;
  bool has(size_t answer) const;
  const c10::SymBool& get(size_t answer) const;

  // Which answers are there, and what they are, in a word.
  uint64_t digest() const;

  // Forgets everything.
  void clear();
  void set_numel(c10::SymInt numel);
  void set(size_t answer, bool value);

 private:
  c10::SymbolicShapeMeta& meta_;
};

}  // namespace fastfake
