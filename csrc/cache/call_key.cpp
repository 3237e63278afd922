#include "cache/call_key.h"

#include "cache/kept.h"
#include "cache/settings.h"
#include "dispatch/kernel_invocation.h"
#include "objects/fake_tensor.h"
#include "process_state.h"
#include "symbolic/shape_meta.h"

#include <ATen/core/Generator.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace fastfake {

namespace {

// Which device a device without an index means now: the number of the current one, plus one.
uint64_t current_device_number(c10::Device device) {
  if (device.has_index() || device.is_cpu() || device.is_meta()) return 0;
  return static_cast<uint64_t>(process().device_guards.current_index(device.type()) + 1);
}

constexpr c10::DispatchKeySet kinds_that_are_not_dense({
    c10::DispatchKey::Sparse,
    c10::DispatchKey::SparseCsr,
    c10::DispatchKey::NestedTensor,
    c10::DispatchKey::Quantized,
    c10::DispatchKey::MkldnnCPU,
});

// A value with one of these keys is not what its bytes say.
constexpr c10::DispatchKeySet python_or_lazy({
    c10::DispatchKey::Python,
    c10::DispatchKey::Conjugate,
    c10::DispatchKey::Negative,
    c10::DispatchKey::ZeroTensor,
});

Bypass layout_bypass(const c10::TensorImpl& impl) {
  switch (impl.layout()) {
    case c10::kSparse:
      return "torch.sparse_coo tensor";
    case c10::kSparseCsr:
      return "torch.sparse_csr tensor";
    case c10::kSparseCsc:
      return "torch.sparse_csc tensor";
    case c10::kSparseBsr:
      return "torch.sparse_bsr tensor";
    case c10::kSparseBsc:
      return "torch.sparse_bsc tensor";
    default:
      return "tensor kind";
  }
}

uint64_t bits_of_tensor(const c10::TensorImpl& impl, c10::Device device, size_t dimensions) {
  return kept("dtype", static_cast<uint64_t>(c10::typeMetaToScalarType(impl.dtype()))) |
         static_cast<uint64_t>(kept("requires grad", impl.requires_grad())) << 8 |
         static_cast<uint64_t>(kept("fake wrapped number", impl.is_wrapped_number())) << 9 |
         kept("device of a tensor", device_bits(device)) << 16 |
         kept("number of dimensions", dimensions) << 32;
}

}  // namespace

Bypass CallKey::build(const OperatorFacts& op, const ModeState& mode, c10::ArrayRef<c10::IValue> arguments) {
  mode_ = &mode;
  op_ = &op;
  is_index_ = op.is_index;
  words_.add(kept("operator", op.id));
  words_.add(thread_settings());
  words_.add(mode.key_bits() | static_cast<uint64_t>(kept("thread: in a kernel", in_kernel_invocation(&mode)))
                                   << 5);
  if (C10_UNLIKELY(mode.follows_values())) words_.add(kept("mode: limit of known values", mode.known_values));
  if (op.is_convolution && kept("rule: convolution that torch.jit traces", torch::jit::tracer::isTracing()))
    return "torch.jit traces";
  if (op.reads_attention_settings) words_.add(attention_settings());
  const auto python_settings = process().python_settings.number();
  if (C10_UNLIKELY(python_settings == PythonSettings::not_comparable)) return "setting of another kind";
  words_.add(kept("settings made in Python", python_settings));
  for (const auto& argument : arguments) {
    if (Bypass bypass = add(argument)) return bypass;
    ++position_;
  }
  if (C10_UNLIKELY(symbols_.has_value()) && !symbols_->end()) return "symbolic shape";
  // Where all values are known, they are computed with.
  if (C10_UNLIKELY(has_known_) && !has_unknown_) return constant_argument;
  return nullptr;
}

Bypass CallKey::add(const c10::IValue& argument) {
  if (argument.isTensor()) return add_tensor(argument.unsafeToTensorImpl());
  if (argument.isNone()) {
    words_.add(Tag::None);
  } else if (argument.isInt()) {
    words_.add(Tag::Int);
    words_.add_integer(kept("integer", argument.toInt()));
  } else if (argument.isBool()) {
    words_.add(Tag::Bool, kept("truth value", argument.toBool()) ? 1 : 0);
  } else if (argument.isDouble()) {
    words_.add(Tag::Double);
    words_.add_double(op_->ignores_numbers ? 0.0 : kept("floating point number", argument.toDouble()));
  } else if (argument.isList()) {
    return add_list(argument);
  } else if (argument.isDevice()) {
    const auto device = argument.toDevice();
    words_.add(Tag::Device, kept("device", device_bits(device)) |
                                kept("current device", current_device_number(device)) << 16);
  } else if (argument.isString()) {
    words_.add_text(argument.toStringView());
  } else if (argument.isComplexDouble()) {
    const auto value = argument.toComplexDouble();
    words_.add(Tag::ComplexDouble);
    words_.add_double(kept("real part", value.real()));
    words_.add_double(kept("imaginary part", value.imag()));
  } else if (argument.isGenerator()) {
    // Metadata does not depend on a generator's state, only on there being one and on its device.
    const auto& generator = argument.toGenerator();
    const uint64_t device = generator.defined() ? device_bits(generator.device()) + 1 : 0;
    words_.add(Tag::Generator, kept("generator", device));
  } else if (argument.isSymInt() || argument.isSymFloat() || argument.isSymBool()) {
    const uint64_t word = word_for(static_cast<const c10::SymNodeImpl*>(argument.internalToPointer()));
    if (word == 0) return "symbolic shape";
    words_.add(Tag::SymbolicNumber);
    words_.add(kept("symbolic number", word));
  } else if (argument.isObject() && is_torchs(*op_)) {
    // The group or the reduction, which such kernels do not look at.
    words_.add(Tag::Object);
  } else {
    return "argument kind";
  }
  return nullptr;
}

Bypass CallKey::add_list(const c10::IValue& list) {
  const auto elements = list.toListRef();
  words_.add(Tag::List, kept("length of a list", elements.size()));
  for (const auto& element : elements) {
    if (Bypass bypass = add(element)) return bypass;
  }
  return nullptr;
}

Bypass CallKey::add_tensor(c10::TensorImpl* impl) {
  if (impl == c10::UndefinedTensorImpl::singleton()) {
    words_.add(Tag::UndefinedTensor);
    return nullptr;
  }
  const auto fake = FakeTensorView::of(impl);
  if (!fake) {
    return impl->is_wrapped_number() ? add_wrapped_number(impl) : real_argument;
  }
  const bool is_ours = fake.mode() == reinterpret_cast<const PyObject*>(mode_);
  if (kept("rule: argument of another mode", !is_ours)) return "not our fake";
  if (kept("rule: argument with a known value", fake.has_constant())) {
    if (!add_known_value(fake.constant())) return constant_argument;
  } else {
    has_unknown_ = true;
  }
  if (kept("rule: argument with keys of its own", fake.has_dispatch_keys())) return "mkldnn tensor";
  return add_fake_tensor(impl, fake.device());
}

Bypass CallKey::add_fake_tensor(c10::TensorImpl* impl, c10::Device device) {
  const auto dtype = c10::typeMetaToScalarType(impl->dtype());
  if (C10_UNLIKELY(is_index_) && tensors_.size() > 0) {
    const bool is_mask = dtype == c10::kBool || dtype == c10::kChar || dtype == c10::kByte;
    if (kept("rule: index that is a mask", is_mask)) return "dynamic output shape";
  }
  if (const auto number = kept("repeated tensor", tensors_.find(impl))) {
    words_.add(Tag::RepeatedTensor, kept("which tensor is repeated", *number));
    return nullptr;
  }
  const auto keys = impl->key_set();
  if (C10_UNLIKELY(keys.has_any(kinds_that_are_not_dense) || !impl->has_storage()))
    return layout_bypass(*impl);
  // The assignment of `data` may give a fake tensor the storage of a wrapper, which kernels take for real.
  if (C10_UNLIKELY(kept("rule: argument on a storage that is not meta",
                        impl->storage().device_type() != c10::kMeta))) {
    return "storage of a wrapper";
  }
  // Not every alias of a known value has it: one may have got its storage by the assignment of `data`.
  if (C10_UNLIKELY(mode_->has_followed_values) &&
      kept("rule: argument on the storage of a known value",
           process().known_storages.contains(impl->storage().unsafeGetStorageImpl()))) {
    return "known value";
  }
  if (C10_UNLIKELY(impl->has_symbolic_sizes_strides())) return add_symbolic_tensor(impl, device);
  auto* storage = impl->storage().unsafeGetStorageImpl();
  const auto storage_bytes = storage->sym_nbytes();
  if (C10_UNLIKELY(storage_bytes.is_heap_allocated())) return add_symbolic_tensor(impl, device);

  const auto sizes = impl->sizes();
  const auto strides = impl->strides();
  constexpr size_t words_of_any = 5;
  uint64_t* word = words_.extend(words_of_any + sizes.size() + strides.size());
  *word++ = tagged(Tag::FakeTensor, bits_of_tensor(*impl, device, sizes.size()));
  *word++ = kept("dispatch keys", keys.raw_repr());
  *word++ = kept("shared storage", storage_number(storage));
  *word++ = static_cast<uint64_t>(kept("bytes of the storage", storage_bytes.as_int_unchecked()));
  *word++ = static_cast<uint64_t>(kept("offset in the storage", impl->storage_offset()));
  for (const auto size : sizes) *word++ = static_cast<uint64_t>(kept("size", size));
  for (const auto stride : strides) *word++ = static_cast<uint64_t>(kept("stride", stride));
  tensors_.add(impl);
  return nullptr;
}

// The same as add_fake_tensor writes, with a word in between that tells which of the integers are symbols.
Bypass CallKey::add_symbolic_tensor(c10::TensorImpl* impl, c10::Device device) {
  const auto storage_bytes = impl->storage().sym_nbytes();
  const auto offset = impl->sym_storage_offset();
  const auto sizes = impl->sym_sizes();
  const auto strides = impl->sym_strides();
  words_.add(Tag::SymbolicFakeTensor, bits_of_tensor(*impl, device, sizes.size()));
  words_.add(kept("dispatch keys", impl->key_set().raw_repr()));
  words_.add(kept("shared storage", storage_number(impl->storage().unsafeGetStorageImpl())));

  c10::SmallVector<const c10::SymInt*, 16> integers = {&storage_bytes, &offset};
  for (const auto& size : sizes) integers.push_back(&size);
  for (const auto& stride : strides) integers.push_back(&stride);
  if (Bypass bypass = add_integers(integers)) return bypass;
  // There are no symbols if the tensor had some once, and has numbers now.
  if (C10_UNLIKELY(symbols_ && symbols_->lack_hints()) && impl->has_symbolic_sizes_strides()) {
    // torch answers questions about the strides of such a tensor differently if it knows how it was made.
    words_.add(kept("answers about strides", ShapeMemo(*symbolic_shape_of(*impl)).digest()));
  }
  tensors_.add(impl);
  return nullptr;
}

Bypass CallKey::add_integers(c10::ArrayRef<const c10::SymInt*> integers) {
  constexpr size_t bits = 64;
  if (integers.size() > bits) return "symbolic shape";
  uint64_t symbolic = 0;
  for (size_t i = 0; i < integers.size(); ++i) {
    symbolic |= static_cast<uint64_t>(integers[i]->is_heap_allocated()) << i;
  }
  words_.add(kept("which integers are symbols", symbolic));
  for (const auto* integer : integers) {
    if (!integer->is_heap_allocated()) {
      words_.add_integer(kept("integer among symbols", integer->as_int_unchecked()));
      continue;
    }
    const uint64_t word = word_for(integer->toSymNodeImplUnowned());
    if (word == 0) return "symbolic shape";
    words_.add(kept("symbol in a shape", word));
  }
  return nullptr;
}

uint64_t CallKey::word_for(const c10::SymNodeImpl* node) {
  if (!symbols_ && !symbols_.emplace().begin(*mode_)) return 0;
  return symbols_->word_for(node);
}

uint64_t CallKey::storage_number(c10::StorageImpl* storage) {
  if (const auto number = storages_.find(storage)) return *number;
  storages_.add(storage);
  return storages_.size() - 1;
}

// The value of a tensor among the arguments, where it is known: what the call asks of the tensor may depend
// on it.
bool CallKey::add_known_value(PyObject* constant) {
  // Where values are followed, Python tells what becomes of them.
  if (mode_->known_values != 0) return false;
  // A call that writes to it has to make it unknown.
  const uint64_t bit = uint64_t{1} << std::min<uint32_t>(position_, 63);
  if ((op_->written_arguments & bit) != 0 || !THPVariable_CheckExact(constant)) return false;
  const auto& value = THPVariable_Unpack(constant);
  const auto* impl = value.unsafeGetTensorImpl();
  const bool is_plain = impl->has_storage() && impl->is_cpu() && impl->layout() == c10::kStrided &&
                        !impl->key_set().has_any(python_or_lazy) && !impl->has_symbolic_sizes_strides();
  if (!is_plain || impl->numel() > 1) return false;
  std::array<uint64_t, 2> bits{};
  const size_t bytes = static_cast<size_t>(impl->numel()) * impl->dtype().itemsize();
  if (bytes > sizeof(bits)) return false;
  if (bytes != 0) std::memcpy(bits.data(), impl->data(), bytes);
  words_.add(Tag::KnownValue, static_cast<uint64_t>(c10::typeMetaToScalarType(impl->dtype())));
  words_.add(kept("known value", bits[0]));
  words_.add(kept("second half of a known value", bits[1]));
  has_known_ = true;
  return true;
}

// A Python number among the arguments: a real zero-dimensional tensor that torch made for it.
Bypass CallKey::add_wrapped_number(const c10::TensorImpl* impl) {
  const auto dtype = c10::typeMetaToScalarType(impl->dtype());
  const size_t bytes = impl->dtype().itemsize();
  if (!impl->is_cpu() || impl->dim() != 0 || bytes > 2 * sizeof(uint64_t)) return real_argument;
  std::array<uint64_t, 2> value{};
  if (!op_->ignores_numbers || !c10::isFloatingType(dtype)) std::memcpy(value.data(), impl->data(), bytes);
  words_.add(Tag::WrappedNumber, kept("dtype of a number", static_cast<uint64_t>(dtype)));
  words_.add(kept("value of a number", value[0]));
  words_.add(kept("second half of a number", value[1]));
  return nullptr;
}

}  // namespace fastfake
