// The symbolic part of a result's shape, as a recipe keeps it.
#pragma once

#include "symbolic/integer_source.h"

#include <c10/core/TensorImpl.h>

#include <cstddef>
#include <optional>
#include <vector>

namespace fastfake {

class SymbolicShape {
 public:
  // Reads the shape of the result `impl`, and takes the symbols out of `prototype`, a copy of it. Returns
  // nothing if an integer cannot be made again.
  //
  // Of what torch derives from a shape and remembers, that is kept which is there: to derive more can add
  // guards, or give an expression another form than it would get later. Answers to questions about strides
  // are kept where they are the same for all symbols.
  static std::optional<SymbolicShape> record(const c10::TensorImpl& impl, c10::TensorImpl& prototype,
                                             IntegerRecorder& integers);

  // Gives `impl`, a copy of the prototype, its symbols.
  void apply(c10::TensorImpl& impl, IntegerBuilder& integers) const;

  // Memory held, in bytes, its own object not counted.
  size_t bytes() const;

  // Sizes, strides, the offset, and the number of elements if it is known.
  const std::vector<IntegerSource>& integers() const { return integers_; }

 private:
  std::vector<IntegerSource> integers_;
};

}  // namespace fastfake
