#include "symbolic/shape_meta.h"

#include "symbolic/sym_node.h"

#include <atomic>
#include <utility>

namespace fastfake {

namespace {

using c10::SymbolicShapeMeta;

using Answers = std::array<c10::SymBool SymbolicShapeMeta::*, ShapeMemo::answers>;

// The arguments of an explicit instantiation may name private members.
struct MemoMembers {
  friend std::atomic<int> SymbolicShapeMeta::* available_member(MemoMembers);
  friend c10::SymInt SymbolicShapeMeta::* numel_member(MemoMembers);
  friend Answers answer_members(MemoMembers);
};

template <auto available, auto numel, auto... answers>
struct PrivateMemoMembers {
  friend std::atomic<int> SymbolicShapeMeta::* available_member(MemoMembers /*tag*/) { return available; }
  friend c10::SymInt SymbolicShapeMeta::* numel_member(MemoMembers /*tag*/) { return numel; }
  friend Answers answer_members(MemoMembers /*tag*/) { return {answers...}; }
};
template struct PrivateMemoMembers<
    &SymbolicShapeMeta::available_, &SymbolicShapeMeta::numel_, &SymbolicShapeMeta::is_contiguous_,
    &SymbolicShapeMeta::is_channels_last_contiguous_, &SymbolicShapeMeta::is_channels_last_3d_contiguous_,
    &SymbolicShapeMeta::is_channels_last_, &SymbolicShapeMeta::is_channels_last_3d_,
    &SymbolicShapeMeta::is_non_overlapping_and_dense_>;

// The bits of `available_`.
constexpr int numel_bit = 1;
constexpr int bit_of(size_t answer) { return 2 << answer; }

struct ProtectedShape : c10::TensorImpl {
  static SymbolicShapeMeta* symbolic_shape_of(const c10::TensorImpl& impl) {
    const auto& extra = impl.*(&ProtectedShape::extra_meta_);
    return extra == nullptr ? nullptr : extra->symbolic_shape_meta_.get();
  }
};

}  // namespace

SymbolicShapeMeta* symbolic_shape_of(c10::TensorImpl& impl) noexcept {
  return ProtectedShape::symbolic_shape_of(impl);
}
const SymbolicShapeMeta* symbolic_shape_of(const c10::TensorImpl& impl) noexcept {
  return ProtectedShape::symbolic_shape_of(impl);
}

bool ShapeMemo::has_numel() const { return meta_.has_numel(); }

bool ShapeMemo::has(size_t answer) const {
  return ((meta_.*available_member(MemoMembers())).load() & bit_of(answer)) != 0;
}

const c10::SymBool& ShapeMemo::get(size_t answer) const {
  return meta_.*answer_members(MemoMembers()).at(answer);
}

uint64_t ShapeMemo::digest() const {
  uint64_t bits = 0;
  for (size_t i = 0; i < answers; ++i) {
    if (!has(i)) continue;
    const auto value = constant_value(get(i));
    bits |= (value ? 2 + static_cast<uint64_t>(*value) : 1) << (2 * i);
  }
  return bits;
}

void ShapeMemo::clear() {
  meta_.refresh_contiguous();
  meta_.refresh_numel();
}

void ShapeMemo::set_numel(c10::SymInt numel) {
  meta_.*numel_member(MemoMembers()) = std::move(numel);
  (meta_.*available_member(MemoMembers())).fetch_or(numel_bit);
}

void ShapeMemo::set(size_t answer, bool value) {
  meta_.*answer_members(MemoMembers()).at(answer) = value;
  (meta_.*available_member(MemoMembers())).fetch_or(bit_of(answer));
}

}  // namespace fastfake
