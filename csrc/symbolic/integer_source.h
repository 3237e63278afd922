// Where the integers of a call's results come from, symbolic ones too.
#pragma once

#include "cache/first_seen.h"
#include "symbolic/symbol_table.h"

#include <c10/core/SymInt.h>
#include <c10/util/SmallVector.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace fastfake {

class CallKey;

struct IntegerSource {
  enum class Kind : uint8_t {
    Number,    // `value` itself
    Argument,  // the argument's node with this number
    Numel,     // the number of elements of the argument tensor with this number
    New,       // the node with this number among those that the recipe makes
  };
  Kind kind = Kind::Number;
  int64_t value = 0;
};

// Finds where the integers of results came from.
class IntegerRecorder {
 public:
  explicit IntegerRecorder(const CallKey& key) : key_(key) {}

  // The source of `integer`; nothing if it cannot be made again from the arguments.
  std::optional<IntegerSource> source_of(const c10::SymInt& integer);

  // The meanings of the nodes that are to be made. Distinct nodes of the results stay distinct.
  const std::vector<SymbolId>& new_symbols() const { return new_symbols_; }

 private:
  const CallKey& key_;
  FirstSeen<PyObject> new_nodes_;
  std::vector<SymbolId> new_symbols_;
  std::vector<c10::SymInt> owners_;  // of the new nodes
};

// Makes the integers of results.
class IntegerBuilder {
 public:
  IntegerBuilder(const CallKey& key, const std::vector<SymbolId>& new_symbols)
      : key_(key), new_symbols_(new_symbols) {}

  c10::SymInt make(const IntegerSource& source);

 private:
  const CallKey& key_;
  const std::vector<SymbolId>& new_symbols_;
  c10::SmallVector<c10::SymNode, 8> made_;  // null where not made yet
};

}  // namespace fastfake
