#include "symbolic/shape_meta.h"

#include "symbolic/sym_node.h"

#include <atomic>
#include <utility>

namespace fastfake {

namespace {

using c10::SymbolicShapeMeta;

// The names of private members may be used to instantiate a template explicitly, and nowhere else.
template <typename Tag, auto member>
struct Expose {
  friend constexpr auto member_named(Tag) { return member; }
};

struct Available {
  friend constexpr auto member_named(Available);
};
struct Numel {
  friend constexpr auto member_named(Numel);
};
struct Contiguous {
  friend constexpr auto member_named(Contiguous);
};
struct ChannelsLastContiguous {
  friend constexpr auto member_named(ChannelsLastContiguous);
};
struct ChannelsLast3dContiguous {
  friend constexpr auto member_named(ChannelsLast3dContiguous);
};
struct ChannelsLast {
  friend constexpr auto member_named(ChannelsLast);
};
struct ChannelsLast3d {
  friend constexpr auto member_named(ChannelsLast3d);
};
struct Dense {
  friend constexpr auto member_named(Dense);
};

template struct Expose<Available, &SymbolicShapeMeta::available_>;
template struct Expose<Numel, &SymbolicShapeMeta::numel_>;
template struct Expose<Contiguous, &SymbolicShapeMeta::is_contiguous_>;
template struct Expose<ChannelsLastContiguous, &SymbolicShapeMeta::is_channels_last_contiguous_>;
template struct Expose<ChannelsLast3dContiguous, &SymbolicShapeMeta::is_channels_last_3d_contiguous_>;
template struct Expose<ChannelsLast, &SymbolicShapeMeta::is_channels_last_>;
template struct Expose<ChannelsLast3d, &SymbolicShapeMeta::is_channels_last_3d_>;
template struct Expose<Dense, &SymbolicShapeMeta::is_non_overlapping_and_dense_>;

constexpr std::array<c10::SymBool SymbolicShapeMeta::*, ShapeMemo::answers> answer_members = {
    member_named(Contiguous()),
    member_named(ChannelsLastContiguous()),
    member_named(ChannelsLast3dContiguous()),
    member_named(ChannelsLast()),
    member_named(ChannelsLast3d()),
    member_named(Dense()),
};

// The bits of `available_`.
constexpr int numel_bit = 1;
constexpr int bit_of(size_t answer) { return 2 << answer; }

struct ProtectedParts : c10::TensorImpl {
  static SymbolicShapeMeta* symbolic_shape_of(const c10::TensorImpl& impl) {
    const auto& extra = impl.*(&ProtectedParts::extra_meta_);
    return extra == nullptr ? nullptr : extra->symbolic_shape_meta_.get();
  }
};

}  // namespace

SymbolicShapeMeta* symbolic_shape_of(c10::TensorImpl& impl) noexcept {
  return ProtectedParts::symbolic_shape_of(impl);
}
const SymbolicShapeMeta* symbolic_shape_of(const c10::TensorImpl& impl) noexcept {
  return ProtectedParts::symbolic_shape_of(impl);
}

bool ShapeMemo::has_numel() const { return meta_.has_numel(); }

bool ShapeMemo::has(size_t answer) const {
  return ((meta_.*member_named(Available())).load() & bit_of(answer)) != 0;
}

const c10::SymBool& ShapeMemo::get(size_t answer) const { return meta_.*answer_members.at(answer); }

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
  meta_.*member_named(Numel()) = std::move(numel);
  (meta_.*member_named(Available())).fetch_or(numel_bit);
}

void ShapeMemo::set(size_t answer, bool value) {
  meta_.*answer_members.at(answer) = value;
  (meta_.*member_named(Available())).fetch_or(bit_of(answer));
}

}  // namespace fastfake
