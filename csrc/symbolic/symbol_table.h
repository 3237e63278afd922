// What the cache keeps for one ShapeEnv: numbers for the meanings of its nodes, and which answers hold for
// it.
//
// A table lives until its ShapeEnv dies, and holds no reference to it, nor to any node.
#pragma once

#include "cache/entry_group.h"
#include "symbolic/facts.h"
#include "symbolic/node_memo.h"
#include "symbolic/sym_node.h"

#include <c10/util/flat_hash_map.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace fastfake {

// The GIL guards it.
class SymbolTable {
 public:
  SymbolTable(PyObject* shape_env, uint64_t serial);
  ~SymbolTable();
  SymbolTable(const SymbolTable&) = delete;
  SymbolTable(SymbolTable&&) = delete;
  SymbolTable& operator=(const SymbolTable&) = delete;
  SymbolTable& operator=(SymbolTable&&) = delete;

  // The id of a Python SymNode; 0 for one whose meaning cannot be told by comparing values, or of another
  // ShapeEnv. Writes it onto the node, so that the next time is one look at an attribute.
  SymbolId id_of(PyObject* node);
  // The id that `node` carries if it is a NumberedNode of this table whose meaning is still that.
  SymbolId id_of(const NumberedNode& node) const;

  // Whether nodes with this id have no hint, as those of unbacked symbols.
  bool lacks_hint(SymbolId id) const { return symbol(id).lacks_hint; }
  // Copies the node `model`, whose id is `id`, so that others can be made of it.
  void keep_model(SymbolId id, PyObject* model);
  // A new node with the meaning `id`, of which there is a model; as an object, or around one. No Python code
  // runs.
  PyRef make_python_node(SymbolId id) const;
  c10::SymNode make_node(SymbolId id) const {
    return c10::make_intrusive<NumberedNode>(make_python_node(id), id);
  }

  // Drops the answers on which an effect can have what the ShapeEnv learned since they were recorded. Returns
  // what it knows, or nothing if that cannot be told; then nothing is to be answered.
  std::optional<Facts> refresh();

  // The answers that hold for the ShapeEnv as it is.
  EntryGroup& answers() { return answers_; }
  // What operations on the symbols give.
  NodeMemo& memo() { return memo_; }
  // Borrowed: it outlives the table.
  PyObject* shape_env() const { return shape_env_; }
  // The frozenset that is equal to `scope` and was interned first.
  PyRef intern_scope(PyRef scope);

 private:
  struct Symbol {
    PyRef stamp;   // a Python integer, the id: a node carries this very object
    PyRef fields;  // of a node, its ShapeEnv left out; when there is a model
    bool lacks_hint = false;
  };
  static constexpr int bits_of_number = 32;

  const Symbol& symbol(SymbolId id) const { return symbols_[(id & 0xffffffff) - 1]; }
  Symbol& symbol(SymbolId id) { return symbols_[(id & 0xffffffff) - 1]; }
  SymbolId id_in_stamp(PyObject* stamp) const;
  SymbolId number(PyObject* node);
  void forget_answers();
  void forget_answers_about(PyObject* changes);

  PyObject* shape_env_;  // borrowed
  uint64_t serial_;
  PyRef numbers_;  // a dictionary from meanings to stamps
  std::vector<Symbol> symbols_;
  std::optional<Facts> facts_;
  PyRef knowledge_;  // what Python code keeps of the facts, to tell the next time what changed
  PyRef scopes_;     // a dictionary from frozensets of symbols to themselves
  EntryGroup answers_;
  NodeMemo memo_;
};

// The tables of all living ShapeEnvs. The GIL guards it.
class SymbolTables {
 public:
  // The class of the nodes that get ids, and what tells what a ShapeEnv learned: a callable that takes it and
  // what the callable returned before, or None. It returns a pair of something to be kept, and the sets of
  // symbols that the news are about each; None for those if they may be about any. `pre_dispatch_modes` is
  // torch's list of modes that run before dispatch, the proxy mode first; `logging` torch's module that knows
  // what is logged. To be called once.
  void register_python(PyTypeObject* node_class, PyObject* news, PyObject* pre_dispatch_modes,
                       PyObject* logging);
  PyTypeObject* node_class() const { return node_class_; }
  PyObject* news() const { return news_; }
  // Whether a tracer sees the operations on symbols, on this thread.
  bool operations_are_traced() const;
  // Whether anything sees them: a tracer or the log.
  bool operations_are_watched() const;

  // The table of `shape_env`, made at the first use. Null where operations on symbols must not be left out:
  // torch records them, or validates how it translates them; and for what is no ShapeEnv.
  SymbolTable* of(PyObject* shape_env);

 private:
  struct Kept {
    std::unique_ptr<SymbolTable> table;
    PyRef weak_reference;  // whose callback removes the table
  };
  static PyObject* forget(PyObject* address, PyObject* weak_reference);

  ska::flat_hash_map<PyObject*, Kept> tables_;
  PyTypeObject* node_class_ = nullptr;
  PyObject* news_ = nullptr;
  PyObject* pre_dispatch_modes_ = nullptr;
  PyObject* logging_ = nullptr;
  uint64_t last_serial_ = 0;
};

}  // namespace fastfake
