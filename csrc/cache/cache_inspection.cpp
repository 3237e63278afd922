#include "cache/cache_inspection.h"

#include "objects/native_mode.h"
#include "process_state.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/DynamicTypes.h>
#include <torch/csrc/jit/python/pybind_utils.h>

#include <optional>
#include <utility>
#include <variant>

namespace fastfake {

namespace {

// The arguments of a call as the dispatcher would have them; nothing if the schema does not allow them.
std::optional<std::vector<c10::IValue>> boxed(const c10::FunctionSchema& schema, const py::sequence& args,
                                              const py::dict& kwargs) {
  std::vector<c10::IValue> values;
  values.reserve(schema.arguments().size());
  size_t taken = 0;
  for (const auto& argument : schema.arguments()) {
    const size_t position = values.size();
    py::object given;
    if (position < args.size() && !argument.kwarg_only()) {
      given = args[position];
    } else if (kwargs.contains(argument.name())) {
      given = kwargs[py::str(argument.name())];
    }
    if (!given) {
      values.push_back(argument.default_value().value_or(c10::IValue()));
      continue;
    }
    ++taken;
    try {
      values.push_back(torch::jit::toIValue(given, argument.real_type(), argument.N()));
    } catch (const py::cast_error&) {
      return std::nullopt;
    } catch (const c10::Error&) {
      return std::nullopt;
    }
  }
  if (taken != args.size() + kwargs.size()) return std::nullopt;  // surplus arguments, or one given twice
  return values;
}

py::object owned(PyObject* object) { return py::reinterpret_borrow<py::object>(object); }

// A number, or what kind of symbol it is and which one of that kind.
py::object describe(const IntegerSource& source) {
  switch (source.kind) {
    case IntegerSource::Kind::Argument:
      return py::make_tuple("argument", source.value);
    case IntegerSource::Kind::Numel:
      return py::make_tuple("numel", source.value);
    case IntegerSource::Kind::New:
      return py::make_tuple("new", source.value);
    case IntegerSource::Kind::Number:
      break;
  }
  return py::int_(source.value);
}

// Sizes, strides and offset.
py::tuple describe_shape(const NewTensor& tensor) {
  const auto dimensions = static_cast<size_t>(tensor.prototype->dim());
  std::vector<IntegerSource> integers;
  if (tensor.symbols) {
    integers = tensor.symbols->integers();
  } else {
    const auto add = [&](int64_t number) { integers.push_back({IntegerSource::Kind::Number, number}); };
    for (const auto size : tensor.prototype->sizes()) add(size);
    for (const auto stride : tensor.prototype->strides()) add(stride);
    add(tensor.prototype->storage_offset());
  }
  py::tuple sizes(dimensions);
  py::tuple strides(dimensions);
  for (size_t i = 0; i < dimensions; ++i) {
    sizes[i] = describe(integers[i]);
    strides[i] = describe(integers[dimensions + i]);
  }
  return py::make_tuple(sizes, strides, describe(integers[2 * dimensions]));
}

py::tuple describe(const NewTensor& tensor) {
  auto& prototype = *tensor.prototype;
  const auto keys = prototype.key_set();
  py::object source_argument = py::none();
  if (tensor.source == StorageSource::Argument) source_argument = py::int_(tensor.source_index);
  const auto dtype = c10::typeMetaToScalarType(prototype.dtype());
  return py::make_tuple("tensor", owned(reinterpret_cast<PyObject*>(torch::getTHPDtype(dtype))),
                        describe_shape(tensor), owned(tensor.device), describe(tensor.storage_bytes),
                        keys.has(c10::DispatchKey::Conjugate), keys.has(c10::DispatchKey::Negative),
                        prototype.is_inference(), source_argument);
}

struct Describe {
  py::tuple operator()(const SameAsArgument& same) const { return py::make_tuple("argument", same.index); }
  py::tuple operator()(const SameAsResult& same) const { return py::make_tuple("result", same.index); }
  py::tuple operator()(const Constant& constant) const {
    return py::make_tuple("constant", torch::jit::toPyObject(constant.value));
  }
  py::tuple operator()(const SymbolicNumber& number) const {
    return py::make_tuple("symbol", describe(number.source));
  }
  py::tuple operator()(const NewTensor& tensor) const { return describe(tensor); }
  py::tuple operator()(const ListOf& list) const { return py::make_tuple("list", list.length); }
  py::tuple operator()(const NewWork& /*work*/) const { return py::make_tuple("work"); }
};

}  // namespace

py::object cache_key(const py::handle& mode, const std::string& name, const std::string& overload,
                     const py::sequence& args, const py::dict& kwargs) {
  const ModeState* state = native_mode(mode.ptr());
  TORCH_CHECK_TYPE(state != nullptr, "expected a FakeTensorMode");
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload.c_str());
  const auto& facts = process().operators.facts(op);
  const Bypass of_operator = facts.is_custom ? process().vouched_operators.bypass_of(facts) : facts.bypass;
  if (of_operator != nullptr) return py::str(of_operator);
  const auto arguments = boxed(op.schema(), args, kwargs);
  if (!arguments) return py::none();
  CallKey key;
  if (const Bypass bypass = key.build(facts, *state, *arguments)) return py::str(bypass);
  return py::cast(key.words().vec());
}

py::list cache_keys() {
  py::list keys;
  for (const auto* entry : process().cache.entries()) {
    const auto& name = process().operators.name(entry->words.front());
    keys.append(py::make_tuple(name.name, name.overload_name, entry->words));
  }
  return keys;
}

py::object cache_entry(const std::vector<uint64_t>& words) {
  const CacheEntry* entry = process().cache.peek(words);
  if (entry == nullptr) return py::none();
  if (entry->bypass != nullptr) return py::str(entry->bypass);
  py::list steps;
  for (const auto& step : entry->recipe.steps()) steps.append(std::visit(Describe(), step));
  return steps;
}

}  // namespace fastfake
