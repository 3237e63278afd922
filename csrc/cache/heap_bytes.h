// What a block on the heap costs.
#pragma once

#include <algorithm>
#include <cstddef>

namespace fastfake {

// The bytes that the C library's allocator takes for a block of `size` bytes, its own header included; none
// for no block.
constexpr size_t heap_bytes(size_t size) noexcept {
  constexpr size_t header = sizeof(size_t);
  constexpr size_t unit = 2 * sizeof(size_t);
  return size == 0 ? 0 : std::max(2 * unit, (size + header + unit - 1) / unit * unit);
}

}  // namespace fastfake
