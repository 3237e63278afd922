#include "symbolic/symbolic_shape.h"

#include "cache/heap_bytes.h"
#include "symbolic/shape_meta.h"

#include <utility>

namespace fastfake {

namespace {

// The integers of a shape but for the number of elements, in the order in which they are kept.
template <typename Meta, typename Visit>
void for_each_integer(Meta& meta, Visit visit) {
  for (auto& size : meta.sizes_) visit(size);
  for (auto& stride : meta.strides_) visit(stride);
  visit(meta.storage_offset_);
}

void keep_constant_answers(c10::SymbolicShapeMeta& meta) {
  ShapeMemo memo(meta);
  std::array<std::optional<bool>, ShapeMemo::answers> values;
  for (size_t i = 0; i < ShapeMemo::answers; ++i) {
    if (memo.has(i)) values.at(i) = constant_value(memo.get(i));
  }
  // This is how torch would answer, without a question about strides.
  if (values[ShapeMemo::contiguous] == true) values[ShapeMemo::dense] = true;
  memo.clear();
  for (size_t i = 0; i < ShapeMemo::answers; ++i) {
    if (const auto& value = values.at(i)) memo.set(i, *value);
  }
}

}  // namespace

std::optional<SymbolicShape> SymbolicShape::record(const c10::TensorImpl& impl, c10::TensorImpl& prototype,
                                                   IntegerRecorder& recorder) {
  const auto& meta = *symbolic_shape_of(impl);
  SymbolicShape shape;
  shape.integers_.reserve(2 * meta.sizes_.size() + 2);
  bool reproducible = true;
  const auto add = [&](const c10::SymInt& integer) {
    const auto source = recorder.source_of(integer);
    reproducible = reproducible && source.has_value();
    shape.integers_.push_back(source.value_or(IntegerSource{}));
  };
  for_each_integer(meta, add);
  if (meta.has_numel()) add(meta.numel());
  if (!reproducible) return std::nullopt;

  auto& numbers = *symbolic_shape_of(prototype);
  keep_constant_answers(numbers);
  for_each_integer(numbers, [](c10::SymInt& integer) { integer = 0; });
  return shape;
}

void SymbolicShape::apply(c10::TensorImpl& impl, IntegerBuilder& builder) const {
  auto& meta = *symbolic_shape_of(impl);
  auto source = integers_.begin();
  for_each_integer(meta, [&](c10::SymInt& integer) { integer = builder.make(*source++); });
  if (source != integers_.end()) ShapeMemo(meta).set_numel(builder.make(*source));
}

size_t SymbolicShape::bytes() const { return heap_bytes(integers_.capacity() * sizeof(IntegerSource)); }

}  // namespace fastfake
