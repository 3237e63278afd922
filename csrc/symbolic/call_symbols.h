// The symbolic numbers among the arguments of a call.
#pragma once

#include "cache/first_seen.h"
#include "symbolic/symbol_table.h"

#include <c10/core/SymInt.h>
#include <c10/util/SmallVector.h>

#include <cstdint>
#include <optional>

namespace fastfake {

struct ModeState;

class CallSymbols {
 public:
  // Finds the ShapeEnv of `mode` and keeps it alive. Returns false if calls on its symbols cannot be cached:
  // there is none, it wants to see every operation, or a tracer does.
  bool begin(const ModeState& mode);

  // The word for a node in a key: its id, or which earlier node it is. 0 if it has none.
  uint64_t word_for(const c10::SymNodeImpl* node);

  // Whether a node so far has no hint, so that conditions on it may have no answer.
  bool lack_hints() const { return lack_hints_; }

  // To be called when all nodes are there. Returns false if the answer to the call must not be remembered.
  bool end();

  // Whether what was computed since `end` can be remembered: the ShapeEnv knows the same as then, and would
  // have remembered if it had learned something. So an answer that is remembered brings no guard with it.
  bool hold_still() const;

  SymbolTable& table() const { return *table_; }

  // The number of a node, counted from 0 in the order of the arguments.
  std::optional<uint32_t> find(const PyObject* node) const { return nodes_.find(node); }
  // The symbols in the expressions of all nodes and those that took their place: a frozenset, worked out when
  // it is first asked for. What the ShapeEnv knows of other symbols has no effect on the call.
  PyObject* scope() const;
  // Node `number` as an integer that others can hold.
  c10::SymInt integer(uint32_t number) const;

 private:
  PyRef shape_env_;
  SymbolTable* table_ = nullptr;  // of shape_env_
  std::optional<Facts> facts_;
  FirstSeen<PyObject> nodes_;
  c10::SmallVector<SymbolId, 8> ids_;
  bool lack_hints_ = false;
  // Of the nodes: Python code could take them from the arguments. Numbered nodes take the place of others
  // when they are asked for.
  mutable c10::SmallVector<c10::SymNode, 8> owners_;
  mutable PyRef scope_;
};

}  // namespace fastfake
