// What the keys of the cache are written in: a flat array of words that only grows.
#pragma once

#include "cache/kept.h"

#include <c10/core/Device.h>
#include <c10/macros/Macros.h>
#include <c10/util/ArrayRef.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

namespace fastfake {

// The low byte of the first word of an argument. It tells how many words follow, or which word does, so that
// no two sequences of arguments are written alike.
enum class Tag : uint8_t {
  None,
  UndefinedTensor,
  FakeTensor,
  RepeatedTensor,
  WrappedNumber,
  Int,
  Double,
  Bool,
  ComplexDouble,
  Text,
  Device,
  Generator,
  List,
  SymbolicNumber,
  SymbolicFakeTensor,
  Object,
  KnownValue,
};

constexpr uint64_t tagged(Tag tag, uint64_t payload = 0) {
  return kept("kind of argument", static_cast<uint64_t>(tag)) | payload << 8;
}

inline uint64_t device_bits(c10::Device device) {
  return static_cast<uint64_t>(static_cast<uint8_t>(device.type())) |
         static_cast<uint64_t>(static_cast<uint8_t>(device.index())) << 8;
}

// The hash of the words of a key.
uint64_t hash_words(c10::ArrayRef<uint64_t> words);

// Writes a key. Values keep their bits, so -0.0 and 0.0 differ.
//
// The words of most calls fit into the object. It is no SmallVector, since those add an element by a call of
// a function that the compiler does not inline.
class Words {
 public:
  Words() = default;
  Words(const Words&) = delete;
  Words(Words&&) = delete;
  Words& operator=(const Words&) = delete;
  Words& operator=(Words&&) = delete;
  ~Words() = default;

  void add(uint64_t word) {
    if (C10_UNLIKELY(size_ == capacity_)) grow();
    begin_[size_++] = word;
  }
  void add(Tag tag, uint64_t payload = 0) { add(tagged(tag, payload)); }
  // Appends `count` words, which the caller writes in order.
  uint64_t* extend(size_t count) {
    while (C10_UNLIKELY(capacity_ - size_ < count)) grow();
    uint64_t* added = begin_ + size_;
    size_ += count;
    return added;
  }
  void add_integer(int64_t value) { add(static_cast<uint64_t>(value)); }
  void add_double(double value) { add(std::bit_cast<uint64_t>(value)); }
  void add_text(std::string_view text);

  c10::ArrayRef<uint64_t> all() const { return {begin_, size_}; }

 private:
  static constexpr size_t fit_inside = 96;

  void grow();

  std::array<uint64_t, fit_inside> inside_;  // not initialised: only what was written is read
  std::unique_ptr<uint64_t[]> outside_;
  uint64_t* begin_ = inside_.data();
  size_t size_ = 0;
  size_t capacity_ = fit_inside;
};

}  // namespace fastfake
