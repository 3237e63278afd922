#include "cache/recipe.h"

#include "cache/heap_bytes.h"
#include "cache/kept.h"
#include "objects/fake_tensor.h"
#include "objects/new_fake_tensor.h"

#include <ATen/core/List.h>
#include <c10/core/StorageImpl.h>

#include <string>
#include <typeinfo>

namespace fastfake {

namespace {

// The storage of all prototypes: a TensorImpl cannot be copied together with its keys without one.
const c10::Storage& prototype_storage() {
  static const auto* storage = new c10::Storage(fresh_storage(/*bytes=*/0, /*unsafe_data_ptr=*/false));
  return *storage;
}

bool is_constant_kind(const c10::IValue& value) {
  return value.isNone() || value.isInt() || value.isBool() || value.isDouble() || value.isComplexDouble() ||
         value.isString() || value.isDevice();
}

size_t bytes_of_prototype(const c10::TensorImpl& prototype) {
  size_t total = heap_bytes(sizeof(c10::TensorImpl));
  // An atomic integer in an object of its own.
  if (prototype.version_counter().enabled()) total += heap_bytes(sizeof(c10::intrusive_ptr_target) + 8);
  const auto dimensions = static_cast<size_t>(prototype.dim());
  if (dimensions > C10_SIZES_AND_STRIDES_MAX_INLINE_SIZE) {
    total += heap_bytes(2 * dimensions * sizeof(int64_t));
  }
  return total;
}

size_t bytes_of_text(const std::string& text) {
  const bool is_inline = text.capacity() <= std::string().capacity();
  return heap_bytes(sizeof(c10::ivalue::ConstantString)) + (is_inline ? 0 : heap_bytes(text.capacity() + 1));
}

}  // namespace

class Recipe::Recorder {
 public:
  Recorder(const OperatorFacts& op, const CallKey& key, const ModeState& mode, std::vector<Step>& steps)
      : op_(op), key_(key), mode_(mode), steps_(steps), integers_(key) {}

  std::vector<SymbolId> new_symbols() const { return integers_.new_symbols(); }

  Bypass add(const c10::IValue& value) {
    if (value.isTensor()) return add_tensor(value);
    if (value.isList()) {
      const auto elements = value.toListRef();
      steps_.emplace_back(ListOf{static_cast<uint32_t>(elements.size()), value.toList().elementType()});
      for (const auto& element : elements) {
        if (Bypass bypass = add(element)) return bypass;
      }
      return nullptr;
    }
    if (value.isSymInt()) return add_symbolic_number(value.toSymInt());
    if (value.isObject() && is_torchs(op_)) {
      // Such kernels make no objects of other kinds.
      steps_.emplace_back(NewWork{});
      return nullptr;
    }
    if (!is_constant_kind(value)) return "non-FakeTensor output";
    steps_.emplace_back(Constant{value});
    return nullptr;
  }

 private:
  Bypass add_symbolic_number(const c10::SymInt& number) {
    const auto source = integers_.source_of(number);
    if (!source) return "symbolic output";
    steps_.emplace_back(SymbolicNumber{*source});
    return nullptr;
  }

  Bypass add_tensor(const c10::IValue& value) {
    auto* impl = value.unsafeToTensorImpl();
    if (impl == c10::UndefinedTensorImpl::singleton()) {
      steps_.emplace_back(Constant{value});
      return nullptr;
    }
    if (const auto index = kept("result that is an argument", key_.tensors().find(impl))) {
      steps_.emplace_back(SameAsArgument{*index});
      return nullptr;
    }
    if (const auto index = kept("result that is another result", built_.find(impl))) {
      steps_.emplace_back(SameAsResult{*index});
      return nullptr;
    }
    if (Bypass bypass = why_not_reproducible(*impl)) return bypass;
    auto tensor = describe(*impl);
    if (!tensor) return "symbolic output";
    steps_.emplace_back(std::move(*tensor));
    built_.add(impl);
    return nullptr;
  }

  // Everything about the tensor must be in what `describe` keeps.
  Bypass why_not_reproducible(const c10::TensorImpl& impl) const {
    const auto fake = FakeTensorView::of(&impl);
    if (!fake || kept("rule: result of a derived class", !fake.is_exactly_fake_tensor())) {
      return "non-FakeTensor output";
    }
    const bool is_ours = fake.mode() == reinterpret_cast<const PyObject*>(&mode_);
    if (kept("rule: result of another mode", !is_ours)) return "not our fake";
    if (kept("rule: result with a known value", fake.has_constant())) return "constant attribute";
    if (kept("rule: result with attributes", !fake.is_plain())) return "output with attributes";
    const auto keys = impl.key_set();
    if (kept("rule: sparse result", keys.has(c10::DispatchKey::Sparse))) return "sparse output";
    if (kept("rule: sparse compressed result", keys.has(c10::DispatchKey::SparseCsr))) {
      return "sparse compressed output";
    }
    const bool is_plain_kind = typeid(impl) == typeid(c10::TensorImpl);
    if (kept("rule: result of a special kind", !is_plain_kind) || !impl.has_storage()) return "tensor kind";
    // Below autograd nothing requires grad; a tensor that does carries a history that is not copied.
    if (kept("rule: result that requires grad", impl.requires_grad())) return "output requires grad";
    return nullptr;
  }

  // Aliasing is read off the storages, not off the schema, which does not tell of every view. Nothing for a
  // tensor with symbols that cannot be made again.
  std::optional<NewTensor> describe(const c10::TensorImpl& impl) {
    const auto* storage = impl.storage().unsafeGetStorageImpl();
    NewTensor tensor{
        .prototype = clone_on_storage(impl, prototype_storage()),
        .device = process().devices.object(FakeTensorView::of(&impl).device()),
        .source = StorageSource::Fresh,
        .source_index = 0,
        .storage_bytes = {},
        .unsafe_data_ptr = kept("warning of data_ptr", mode_.allow_unsafe_data_ptr_access),
        .symbols = std::nullopt,
    };
    if (const auto index = kept("storage of an argument", key_.storages().find(storage))) {
      tensor.source = StorageSource::Argument;
      tensor.source_index = *index;
    } else if (const auto earlier = kept("storage of another result", built_on(storage))) {
      tensor.source = StorageSource::Result;
      tensor.source_index = *earlier;
    } else {
      const auto bytes = integers_.source_of(storage->sym_nbytes());
      if (!bytes) return std::nullopt;
      tensor.storage_bytes = kept("bytes of a fresh storage", *bytes);
    }
    if (C10_UNLIKELY(impl.has_symbolic_sizes_strides())) {
      tensor.symbols = SymbolicShape::record(impl, *tensor.prototype, integers_);
      if (!tensor.symbols) return std::nullopt;
    }
    return tensor;
  }

  std::optional<uint32_t> built_on(const c10::StorageImpl* storage) const {
    for (size_t i = 0; i < built_.size(); ++i) {
      if (built_[i]->storage().unsafeGetStorageImpl() == storage) return static_cast<uint32_t>(i);
    }
    return std::nullopt;
  }

  const OperatorFacts& op_;
  const CallKey& key_;
  const ModeState& mode_;
  std::vector<Step>& steps_;
  IntegerRecorder integers_;
  FirstSeen<c10::TensorImpl> built_;
};

class Recipe::Builder {
 public:
  Builder(const Recipe& recipe, const CallKey& key, PyObject* mode)
      : next_(recipe.steps_.begin()),
        end_(recipe.steps_.end()),
        key_(key),
        mode_(mode),
        integers_(key, recipe.new_symbols_) {
    if (recipe.steps_.size() > 1) keep_storages_of_arguments();
  }

  bool done() const { return next_ == end_; }

  c10::IValue make_next() {
    const Step& step = *next_++;
    if (const auto* tensor = std::get_if<NewTensor>(&step)) return make_tensor(*tensor);
    if (const auto* same = std::get_if<SameAsArgument>(&step)) {
      return reference_to(key_.tensors()[same->index]);
    }
    if (const auto* same = std::get_if<SameAsResult>(&step)) return reference_to(built_[same->index]);
    if (const auto* constant = std::get_if<Constant>(&step)) return constant->value;
    if (const auto* number = std::get_if<SymbolicNumber>(&step)) return integers_.make(number->source);
    if (std::holds_alternative<NewWork>(step)) return process().works.make();
    return make_list(std::get<ListOf>(step));
  }

 private:
  // Making a result can run Python code, which can give an argument another storage. Results that come
  // later are on the one that it had.
  void keep_storages_of_arguments() {
    const c10::StorageImpl* last = nullptr;
    for (auto step = next_; step != end_; ++step) {
      const auto* tensor = std::get_if<NewTensor>(&*step);
      if (tensor == nullptr || tensor->source != StorageSource::Argument) continue;
      auto storage = storage_for(*tensor);
      if (storage.unsafeGetStorageImpl() == last) continue;
      last = storage.unsafeGetStorageImpl();
      kept_.push_back(std::move(storage));
    }
  }

  at::Tensor make_tensor(const NewTensor& recipe) {
    auto impl = clone_on_storage(*recipe.prototype, storage_for(recipe));
    if (C10_UNLIKELY(recipe.symbols.has_value())) recipe.symbols->apply(*impl, integers_);
    at::Tensor tensor = adopt_as_fake(std::move(impl), mode_, recipe.device);
    built_.push_back(tensor.unsafeGetTensorImpl());
    return tensor;
  }

  static at::Tensor reference_to(c10::TensorImpl* impl) {
    return at::Tensor(c10::intrusive_ptr<c10::TensorImpl>::reclaim_copy(impl));
  }

  c10::Storage storage_for(const NewTensor& recipe) {
    switch (recipe.source) {
      case StorageSource::Argument:
        return c10::Storage(
            c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(key_.storages()[recipe.source_index]));
      case StorageSource::Result:
        return built_[recipe.source_index]->storage();
      case StorageSource::Fresh:
        break;
    }
    return fresh_storage(integers_.make(recipe.storage_bytes), recipe.unsafe_data_ptr);
  }

  c10::IValue make_list(const ListOf& recipe) {
    c10::impl::GenericList list(recipe.element_type);
    list.reserve(recipe.length);
    for (uint32_t i = 0; i < recipe.length; ++i) list.push_back(make_next());
    return list;
  }

  std::vector<Step>::const_iterator next_;
  std::vector<Step>::const_iterator end_;
  const CallKey& key_;
  PyObject* mode_;
  IntegerBuilder integers_;
  c10::SmallVector<c10::Storage, 2> kept_;
  c10::SmallVector<c10::TensorImpl*, 4> built_;  // alive: they are among the results made so far
};

Bypass Recipe::record(const OperatorFacts& op, const CallKey& key, const ModeState& mode,
                      c10::ArrayRef<c10::IValue> results) {
  Recorder recorder(op, key, mode, steps_);
  for (const auto& result : results) {
    if (Bypass bypass = recorder.add(result)) {
      steps_.clear();
      return bypass;
    }
  }
  steps_.shrink_to_fit();
  new_symbols_ = recorder.new_symbols();
  return nullptr;
}

void Recipe::build(const CallKey& key, PyObject* mode, c10::SmallVectorImpl<c10::IValue>& results) const {
  Builder builder(*this, key, mode);
  while (!builder.done()) results.push_back(builder.make_next());
}

size_t Recipe::bytes() const {
  size_t total =
      heap_bytes(steps_.capacity() * sizeof(Step)) + heap_bytes(new_symbols_.capacity() * sizeof(SymbolId));
  for (const auto& step : steps_) {
    if (const auto* tensor = std::get_if<NewTensor>(&step)) {
      total += bytes_of_prototype(*tensor->prototype);
      if (tensor->symbols) total += tensor->symbols->bytes();
    } else if (const auto* constant = std::get_if<Constant>(&step)) {
      if (constant->value.isString()) total += bytes_of_text(constant->value.toStringRef());
    }
  }
  return total;
}

}  // namespace fastfake
