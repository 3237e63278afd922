// The parts of the key, and the rules about what is not cached, that a test build can do without.
//
// A build with FASTFAKE_MUTATIONS reads from the environment variable FASTFAKE_MUTATION which part or rule to
// leave out, so that scripts/mutate can show that a test notices. In every other build `kept` is its
// argument.
#pragma once

#include <string_view>

#ifdef FASTFAKE_MUTATIONS
#include <cstdlib>
#endif

namespace fastfake {

// `value`, or nothing (zero, false, null) where the part is to be left out.
template <typename T>
constexpr T kept([[maybe_unused]] std::string_view part, T value) noexcept {
#ifdef FASTFAKE_MUTATIONS
  const char* left_out = std::getenv("FASTFAKE_MUTATION");
  if (left_out != nullptr && part == left_out) return T{};
#endif
  return value;
}

}  // namespace fastfake
