#include "cache/words.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace fastfake {

namespace {

// Folded 64x64->128 multiplication, two words a step: each input bit reaches every output bit, which
// the flat table below needs since it takes low bits only.
__extension__ using uint128_t = unsigned __int128;

uint64_t mix(uint64_t a, uint64_t b) {
  const auto product = static_cast<uint128_t>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

}  // namespace

uint64_t hash_words(c10::ArrayRef<uint64_t> words) {
  constexpr uint64_t first_secret = 0xa0761d6478bd642fULL;
  constexpr uint64_t second_secret = 0xe7037ed1a0b428dbULL;
  uint64_t hash = words.size();
  size_t i = 0;
  for (; i + 1 < words.size(); i += 2) {
    hash = mix(words[i] ^ first_secret, words[i + 1] ^ second_secret ^ hash);
  }
  if (i < words.size()) hash = mix(words[i] ^ first_secret, hash ^ second_secret);
  return hash;
}

void Words::grow() {
  auto larger = std::make_unique_for_overwrite<uint64_t[]>(2 * capacity_);
  std::copy_n(begin_, size_, larger.get());
  outside_ = std::move(larger);
  begin_ = outside_.get();
  capacity_ *= 2;
}

void Words::add_text(std::string_view text) {
  add(Tag::Text, kept("length of a text", text.size()));
  for (size_t i = 0; i < text.size(); i += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + i, std::min(sizeof(word), text.size() - i));
    add(kept("text", word));
  }
}

}  // namespace fastfake
