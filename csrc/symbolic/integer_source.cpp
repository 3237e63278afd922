#include "symbolic/integer_source.h"

#include "cache/call_key.h"
#include "symbolic/call_symbols.h"
#include "symbolic/shape_meta.h"

namespace fastfake {

namespace {

// The argument tensor whose remembered number of elements is `node`.
std::optional<uint32_t> tensor_with_numel(const CallKey& key, const PyObject* node) {
  for (size_t i = 0; i < key.tensors().size(); ++i) {
    const c10::TensorImpl& impl = *key.tensors()[i];
    const auto* shape = symbolic_shape_of(impl);
    if (shape == nullptr || !shape->has_numel() || !shape->numel().is_heap_allocated()) continue;
    if (python_node(shape->numel().toSymNodeImplUnowned()) == node) return static_cast<uint32_t>(i);
  }
  return std::nullopt;
}

}  // namespace

std::optional<IntegerSource> IntegerRecorder::source_of(const c10::SymInt& integer) {
  using Kind = IntegerSource::Kind;
  if (!integer.is_heap_allocated()) return IntegerSource{Kind::Number, integer.as_int_unchecked()};
  if (key_.symbols() == nullptr) return std::nullopt;
  const auto& symbols = *key_.symbols();
  PyObject* node = python_node(integer.toSymNodeImplUnowned());
  if (node == nullptr) return std::nullopt;
  if (const auto number = symbols.find(node)) return IntegerSource{Kind::Argument, *number};
  if (const auto number = new_nodes_.find(node)) return IntegerSource{Kind::New, *number};
  if (const auto tensor = tensor_with_numel(key_, node)) return IntegerSource{Kind::Numel, *tensor};
  auto& table = symbols.table();
  const SymbolId id = table.id_of(node);
  // torch may remember a number with other symbols on a tensor, or make new ones.
  if (id == 0 || !is_subset(symbols_standing_for(node).get(), symbols.scope())) return std::nullopt;
  table.keep_model(id, node);
  new_nodes_.add(node);
  new_symbols_.push_back(id);
  owners_.push_back(integer);
  return IntegerSource{Kind::New, static_cast<int64_t>(new_symbols_.size() - 1)};
}

c10::SymInt IntegerBuilder::make(const IntegerSource& source) {
  const auto number = static_cast<uint32_t>(source.value);
  switch (source.kind) {
    case IntegerSource::Kind::Argument:
      return key_.symbols()->integer(number);
    case IntegerSource::Kind::Numel:
      return key_.tensors()[number]->sym_numel();
    case IntegerSource::Kind::New: {
      if (made_.empty()) made_.resize(new_symbols_.size());
      auto& node = made_[number];
      if (!node.defined()) node = key_.symbols()->table().make_node(new_symbols_[number]);
      return c10::SymInt(node);
    }
    case IntegerSource::Kind::Number:
      break;
  }
  return source.value;
}

}  // namespace fastfake
