// What operations on the symbolic numbers of one ShapeEnv gave.
#pragma once

#include "symbolic/facts.h"
#include "symbolic/symbol_id.h"

#include <c10/util/flat_hash_map.h>

#include <cstddef>
#include <cstdint>
#include <optional>

namespace fastfake {

// A method of SymNode on numbers that stand for its operands.
struct NodeOperation {
  uint64_t method;
  SymbolId first;
  uint64_t second = 0;
  bool operator==(const NodeOperation& other) const = default;
};

// Holds results as long as what they depend on is the same as when the first of them was remembered.
template <typename Basis>
class ResultsOn {
 public:
  // The result of `operation` on `basis`, or nothing.
  std::optional<uint64_t> find(const NodeOperation& operation, const Basis& basis) const {
    if (basis != basis_) return std::nullopt;
    const auto found = results_.find(operation);
    return found == results_.end() ? std::nullopt : std::optional(found->second);
  }
  void insert(const NodeOperation& operation, uint64_t result, const Basis& basis) {
    if (basis != basis_) results_.clear();
    basis_ = basis;
    results_.emplace(operation, result);
  }

 private:
  struct Hash {
    size_t operator()(const NodeOperation& operation) const {
      constexpr uint64_t factor = 0x9e3779b97f4a7c15ULL;
      return ((operation.first * factor + operation.second) * factor + operation.method) * factor >> 7;
    }
  };
  ska::flat_hash_map<NodeOperation, uint64_t, Hash> results_;
  std::optional<Basis> basis_;
};

// The GIL guards it.
struct NodeMemo {
  // By a mark of the ShapeEnv's replacements: ids of sums, products and comparisons.
  ResultsOn<uint64_t> numbers;
  // By all that the ShapeEnv knows: whether conditions hold.
  ResultsOn<Facts> decisions;
};

}  // namespace fastfake
