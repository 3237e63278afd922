#include "call_key.h"

#include "fake_tensor.h"
#include "settings.h"

#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/tensor/python_tensor.h>

#include <array>
#include <bit>
#include <cstring>

namespace fastfake {

namespace {

// The low byte of the first word of an argument.
enum class Tag : uint8_t {
  None,
  UndefinedTensor,
  FakeTensor,
  RepeatedTensor,
  WrappedNumber,
  Int,
  Double,
  Bool,
  ComplexDouble,
  Text,
  Device,
  Generator,
  List,
};

constexpr uint64_t tagged(Tag tag, uint64_t payload = 0) { return static_cast<uint64_t>(tag) | payload << 8; }

uint64_t device_bits(c10::Device device) {
  return static_cast<uint64_t>(static_cast<uint8_t>(device.type())) |
         static_cast<uint64_t>(static_cast<uint8_t>(device.index())) << 8;
}

// Which device a device without an index means now: the number of the current one, plus one.
uint64_t current_device_number(c10::Device device) {
  if (device.has_index() || device.is_cpu() || device.is_meta() ||
      !c10::impl::hasDeviceGuardImpl(device.type())) {
    return 0;
  }
  return static_cast<uint64_t>(c10::impl::getDeviceGuardImpl(device.type())->getDevice().index() + 1);
}

// With it, operators inside a meta kernel or decomposition run their Python implementations.
bool python_dispatcher_enabled() {
  return c10::impl::tls_local_dispatch_key_set().included_.has(c10::DispatchKey::PythonDispatcher);
}

// Settings outside of the arguments that kernels, decompositions and metas look at.
uint64_t thread_state_bits() {
  const auto& context = at::globalContext();
  const uint64_t flags = static_cast<uint64_t>(c10::InferenceMode::is_enabled()) |
                         static_cast<uint64_t>(c10::GradMode::is_enabled()) << 1 |
                         static_cast<uint64_t>(context.deterministicAlgorithms()) << 2 |
                         static_cast<uint64_t>(context.deterministicAlgorithmsWarnOnly()) << 3 |
                         static_cast<uint64_t>(context.userEnabledCuDNN()) << 4 |
                         static_cast<uint64_t>(context.userEnabledMkldnn()) << 5 |
                         static_cast<uint64_t>(python_dispatcher_enabled()) << 6;
  const auto default_dtype = static_cast<uint64_t>(c10::get_default_dtype_as_scalartype());
  return flags | default_dtype << 8 | device_bits(torch::tensors::get_default_device()) << 16;
}

// Folded 64x64->128 multiplication, two words a step: each input bit reaches every output bit, which
// the flat table below needs since it takes low bits only.
__extension__ using uint128_t = unsigned __int128;

uint64_t mix(uint64_t a, uint64_t b) {
  const auto product = static_cast<uint128_t>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

constexpr c10::DispatchKeySet kinds_that_are_not_dense({
    c10::DispatchKey::Sparse,
    c10::DispatchKey::SparseCsr,
    c10::DispatchKey::NestedTensor,
    c10::DispatchKey::Quantized,
    c10::DispatchKey::MkldnnCPU,
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

}  // namespace

uint64_t hash_words(c10::ArrayRef<uint64_t> words) {
  constexpr uint64_t first_secret = 0xa0761d6478bd642fULL;
  constexpr uint64_t second_secret = 0xe7037ed1a0b428dbULL;
  uint64_t hash = words.size();
  size_t i = 0;
  for (; i + 1 < words.size(); i += 2) {
    hash = mix(words[i] ^ first_secret, words[i + 1] ^ second_secret ^ hash);
  }
  if (i < words.size()) hash = mix(words[i] ^ first_secret, hash ^ second_secret);
  return hash;
}

Bypass CallKey::build(const OperatorFacts& op, const ModeState& mode, c10::ArrayRef<c10::IValue> arguments) {
  mode_ = &mode;
  is_index_ = op.is_index;
  push(op.id);
  push(thread_state_bits());
  push(mode.key_bits());
  if (op.reads_attention_settings) push(attention_backend_bits());
  push(settings_number());
  for (const auto& argument : arguments) {
    if (Bypass bypass = add(argument)) return bypass;
  }
  hash_ = hash_words(words_);
  return nullptr;
}

Bypass CallKey::add(const c10::IValue& argument) {
  if (argument.isTensor()) return add_tensor(argument.unsafeToTensorImpl());
  if (argument.isNone()) {
    push(tagged(Tag::None));
  } else if (argument.isInt()) {
    push(tagged(Tag::Int));
    push(static_cast<uint64_t>(argument.toInt()));
  } else if (argument.isBool()) {
    push(tagged(Tag::Bool, argument.toBool() ? 1 : 0));
  } else if (argument.isDouble()) {
    push(tagged(Tag::Double));
    push(std::bit_cast<uint64_t>(argument.toDouble()));
  } else if (argument.isList()) {
    return add_list(argument);
  } else if (argument.isDevice()) {
    const auto device = argument.toDevice();
    push(tagged(Tag::Device, device_bits(device) | current_device_number(device) << 16));
  } else if (argument.isString()) {
    add_text(argument.toStringView());
  } else if (argument.isComplexDouble()) {
    const auto value = argument.toComplexDouble();
    push(tagged(Tag::ComplexDouble));
    push(std::bit_cast<uint64_t>(value.real()));
    push(std::bit_cast<uint64_t>(value.imag()));
  } else if (argument.isGenerator()) {
    // Metadata does not depend on a generator's state, only on there being one and on its device.
    const auto& generator = argument.toGenerator();
    push(tagged(Tag::Generator, generator.defined() ? device_bits(generator.device()) + 1 : 0));
  } else if (argument.isSymInt() || argument.isSymFloat() || argument.isSymBool()) {
    return "symbolic shape";
  } else {
    return "argument kind";
  }
  return nullptr;
}

Bypass CallKey::add_list(const c10::IValue& list) {
  const auto elements = list.toListRef();
  push(tagged(Tag::List, elements.size()));
  for (const auto& element : elements) {
    if (Bypass bypass = add(element)) return bypass;
  }
  return nullptr;
}

void CallKey::add_text(std::string_view text) {
  push(tagged(Tag::Text, text.size()));
  for (size_t i = 0; i < text.size(); i += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + i, std::min(sizeof(word), text.size() - i));
    push(word);
  }
}

Bypass CallKey::add_tensor(c10::TensorImpl* impl) {
  if (impl == c10::UndefinedTensorImpl::singleton()) {
    push(tagged(Tag::UndefinedTensor));
    return nullptr;
  }
  const auto fake = FakeTensorView::of(impl);
  if (!fake) {
    return impl->is_wrapped_number() ? add_wrapped_number(impl) : "non-fake tensor";
  }
  if (fake.mode() != reinterpret_cast<const PyObject*>(mode_)) return "not our fake";
  if (fake.has_constant()) return "constant attribute";
  return add_fake_tensor(impl);
}

Bypass CallKey::add_fake_tensor(c10::TensorImpl* impl) {
  const auto dtype = c10::typeMetaToScalarType(impl->dtype());
  if (is_index_ && tensors_.size() > 0 &&
      (dtype == c10::kBool || dtype == c10::kChar || dtype == c10::kByte)) {
    return "dynamic output shape";
  }
  if (const auto number = tensors_.find(impl)) {
    push(tagged(Tag::RepeatedTensor, *number));
    return nullptr;
  }
  const auto keys = impl->key_set();
  if (C10_UNLIKELY(impl->has_symbolic_sizes_strides())) return "symbolic shape";
  if (C10_UNLIKELY(keys.has_any(kinds_that_are_not_dense) || !impl->has_storage()))
    return layout_bypass(*impl);
  const auto storage_bytes = impl->storage().sym_nbytes();
  if (C10_UNLIKELY(storage_bytes.is_heap_allocated())) return "symbolic shape";

  const auto device = FakeTensorView::of(impl).device();
  const auto sizes = impl->sizes();
  push(tagged(Tag::FakeTensor, static_cast<uint64_t>(dtype) |
                                   static_cast<uint64_t>(impl->requires_grad()) << 8 |
                                   static_cast<uint64_t>(impl->is_wrapped_number()) << 9 |
                                   device_bits(device) << 16 | sizes.size() << 32));
  push(keys.raw_repr());
  push(storage_number(impl));
  push(static_cast<uint64_t>(storage_bytes.as_int_unchecked()));
  push(static_cast<uint64_t>(impl->storage_offset()));
  for (const auto size : sizes) push(static_cast<uint64_t>(size));
  for (const auto stride : impl->strides()) push(static_cast<uint64_t>(stride));
  tensors_.add(impl);
  return nullptr;
}

uint64_t CallKey::storage_number(const c10::TensorImpl* impl) {
  auto* storage = impl->storage().unsafeGetStorageImpl();
  if (const auto number = storages_.find(storage)) return *number;
  storages_.add(storage);
  return storages_.size() - 1;
}

// A Python number among the arguments: a real zero-dimensional tensor that torch made for it.
Bypass CallKey::add_wrapped_number(const c10::TensorImpl* impl) {
  const auto dtype = c10::typeMetaToScalarType(impl->dtype());
  const size_t bytes = impl->dtype().itemsize();
  if (!impl->is_cpu() || impl->dim() != 0 || bytes > 2 * sizeof(uint64_t)) return "non-fake tensor";
  std::array<uint64_t, 2> value{};
  std::memcpy(value.data(), impl->data(), bytes);
  push(tagged(Tag::WrappedNumber, static_cast<uint64_t>(dtype)));
  push(value[0]);
  push(value[1]);
  return nullptr;
}

}  // namespace fastfake
