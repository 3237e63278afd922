// The key of one operator call: everything that its result depends on, as a flat array of words.
//
// Two calls with equal words have equal results. The words name the operator, the state of the thread
// and of the mode, and each argument with its type; of a tensor its metadata, and also which earlier
// argument is the same tensor or shares its storage.
#pragma once

#include "cache/first_seen.h"
#include "cache/operator_facts.h"
#include "cache/words.h"
#include "objects/mode_state.h"
#include "symbolic/call_symbols.h"

#include <ATen/core/ivalue.h>
#include <c10/core/StorageImpl.h>
#include <c10/core/TensorImpl.h>
#include <c10/util/ArrayRef.h>
#include <torch/csrc/python_headers.h>

#include <cstdint>
#include <optional>

namespace fastfake {

// Why a call is not cached; null when it is.
using Bypass = const char*;

// A real tensor among the arguments that is no number.
inline constexpr Bypass real_argument = "non-fake tensor";
// A fake tensor with a known value.
inline constexpr Bypass constant_argument = "constant attribute";

class CallKey {
 public:
  // Reads the arguments of a call under `mode`. Returns why the call cannot be cached, or null; only in
  // the latter case is the key complete. Needs the GIL.
  Bypass build(const OperatorFacts& op, const ModeState& mode, c10::ArrayRef<c10::IValue> arguments);

  c10::ArrayRef<uint64_t> words() const { return words_.all(); }
  uint64_t operator_id() const { return words().front(); }
  uint64_t hash() const { return hash_words(words()); }
  // The distinct fake tensors among the arguments, those inside lists too, and their distinct storages, in
  // the order of the arguments. The tensors are alive while the arguments are. The storages are those that
  // they had when the key was built: Python code can give a tensor another one.
  const FirstSeen<c10::TensorImpl>& tensors() const { return tensors_; }
  const FirstSeen<c10::StorageImpl>& storages() const { return storages_; }
  // The symbolic numbers among the arguments and in the shapes of tensors; null without any.
  const CallSymbols* symbols() const { return symbols_ ? &*symbols_ : nullptr; }

 private:
  Bypass add(const c10::IValue& argument);
  Bypass add_tensor(c10::TensorImpl* impl);
  Bypass add_fake_tensor(c10::TensorImpl* impl, c10::Device device);
  Bypass add_symbolic_tensor(c10::TensorImpl* impl, c10::Device device);
  Bypass add_integers(c10::ArrayRef<const c10::SymInt*> integers);
  // The word for a symbolic number; 0 if it has none.
  uint64_t word_for(const c10::SymNodeImpl* node);
  Bypass add_list(const c10::IValue& list);
  Bypass add_wrapped_number(const c10::TensorImpl* impl);
  // Returns false if the call cannot be cached.
  bool add_known_value(PyObject* constant);
  // The number of `storage` among the storages of the arguments.
  uint64_t storage_number(c10::StorageImpl* storage);

  Words words_;
  FirstSeen<c10::TensorImpl> tensors_;
  FirstSeen<c10::StorageImpl> storages_;
  std::optional<CallSymbols> symbols_;
  const ModeState* mode_ = nullptr;
  const OperatorFacts* op_ = nullptr;
  uint32_t position_ = 0;  // of the argument that is being added
  bool is_index_ = false;
  bool has_known_ = false;
  bool has_unknown_ = false;
};

}  // namespace fastfake
