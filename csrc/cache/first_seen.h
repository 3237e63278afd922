// Numbers objects in the order in which they first appear.
#pragma once

#include <c10/util/ArrayRef.h>
#include <c10/util/SmallVector.h>
#include <c10/util/flat_hash_map.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

namespace fastfake {

// A list of distinct pointers. Operators have a handful of tensors, for which a scan is the fastest search;
// optimizers pass hundreds in lists, for which a table takes over.
template <typename T>
class FirstSeen {
 public:
  // The number of `object` if it was added before.
  std::optional<uint32_t> find(const T* object) const {
    if (C10_UNLIKELY(table_ != nullptr)) {
      const auto found = table_->find(object);
      return found == table_->end() ? std::nullopt : std::optional<uint32_t>(found->second);
    }
    for (size_t i = 0; i < objects_.size(); ++i) {
      if (objects_[i] == object) return static_cast<uint32_t>(i);
    }
    return std::nullopt;
  }

  // Appends `object`, which was not added before.
  void add(T* object) {
    objects_.push_back(object);
    if (C10_UNLIKELY(objects_.size() > largest_scan)) add_to_table();
  }

  size_t size() const { return objects_.size(); }
  T* operator[](size_t number) const { return objects_[number]; }

 private:
  using Table = ska::flat_hash_map<const T*, uint32_t>;
  static constexpr size_t largest_scan = 16;

  C10_NOINLINE void add_to_table() {
    if (table_ == nullptr) table_ = std::make_unique<Table>();
    for (size_t i = table_->size(); i < objects_.size(); ++i)
      table_->emplace(objects_[i], static_cast<uint32_t>(i));
  }

  c10::SmallVector<T*, 8> objects_;
  std::unique_ptr<Table> table_;  // made when it is needed: an empty one allocates too
};

}  // namespace fastfake
