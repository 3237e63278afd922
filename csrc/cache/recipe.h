// How the results of a call are made again from its arguments: what a cache entry records.
#pragma once

#include "cache/call_key.h"
#include "symbolic/symbolic_shape.h"

#include <ATen/core/ivalue.h>
#include <c10/core/TensorImpl.h>
#include <c10/util/SmallVector.h>
#include <torch/csrc/python_headers.h>

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

namespace fastfake {

// The result is argument tensor `index` itself.
struct SameAsArgument {
  uint32_t index;
};

// The result is the same object as the tensor that was built as number `index`.
struct SameAsResult {
  uint32_t index;
};

// The result is a number, a string, a device, None or an undefined tensor.
struct Constant {
  c10::IValue value;
};

// The result is a symbolic integer.
struct SymbolicNumber {
  IntegerSource source;
};

// The result is what a program waits for a collective with: each call makes one with a number of its own.
struct NewWork {};

// Whose storage a tensor is on.
enum class StorageSource : uint8_t { Fresh, Argument, Result };

// The result is a tensor of its own, a copy of `prototype` in everything but storage and Python object, and
// but for the symbols in its shape.
struct NewTensor {
  c10::intrusive_ptr<c10::TensorImpl> prototype;
  PyObject* device;  // interned, so not owned
  StorageSource source;
  uint32_t source_index;        // which storage of the arguments or which built tensor, unless fresh
  IntegerSource storage_bytes;  // of a fresh storage
  bool unsafe_data_ptr;         // `data_ptr` on a fresh storage warns rather than raises
  std::optional<SymbolicShape> symbols;
};

// The result is a list of the `length` results that follow.
struct ListOf {
  uint32_t length;
  c10::TypePtr element_type;
};

using Step = std::variant<SameAsArgument, SameAsResult, Constant, SymbolicNumber, NewTensor, ListOf, NewWork>;

// The steps that make the results of a call, first result first.
class Recipe {
 public:
  // Reads `results` of a call with key `key` under `mode`. Returns why they cannot be made again, or
  // null. Needs the GIL.
  Bypass record(const OperatorFacts& op, const CallKey& key, const ModeState& mode,
                c10::ArrayRef<c10::IValue> results);

  // Makes the results for other arguments with an equal key and appends them to `results`.
  // `key` is their key. Needs the GIL.
  void build(const CallKey& key, PyObject* mode, c10::SmallVectorImpl<c10::IValue>& results) const;

  const std::vector<Step>& steps() const { return steps_; }
  // What the symbolic integers among the results mean that are no argument's.
  const std::vector<SymbolId>& new_symbols() const { return new_symbols_; }

  // Memory held, in bytes.
  size_t bytes() const;

 private:
  class Recorder;
  class Builder;
  std::vector<Step> steps_;
  std::vector<SymbolId> new_symbols_;
};

}  // namespace fastfake
