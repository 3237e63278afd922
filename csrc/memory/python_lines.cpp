#include "memory/python_lines.h"

#include <torch/csrc/utils/pythoncapi_compat.h>

#include <algorithm>
#include <string_view>

namespace fastfake {

namespace {

std::string text_attribute(PyObject* object, const char* name) {
  const auto value = PyRef::steal(PyObject_GetAttrString(object, name));
  const char* text = PyUnicode_AsUTF8(value.get());
  if (text == nullptr) throw python_error();
  return text;
}

// Where in its code a frame is; what is cheap to ask for.
int position_in(PyFrameObject* frame) {
#if PY_VERSION_HEX >= 0x030B0000
  return PyFrame_GetLasti(frame);
#else
  return PyFrame_GetLineNumber(frame);
#endif
}

}  // namespace

void PythonLines::start(std::vector<std::string> skipped) {
  skipped_ = std::move(skipped);
  texts_.assign(1, "");
}

void PythonLines::stop() {
  numbers_.clear();
  known_.clear();
}

bool PythonLines::is_users(PyObject* code) {
  const auto found = known_.find(code);
  if (found != known_.end()) return found->second.is_users;
  const auto file = text_attribute(code, "co_filename");
  const bool is_users = !std::ranges::any_of(
      skipped_, [&](const std::string& beginning) { return std::string_view(file).starts_with(beginning); });
  known_[code] = KnownCode{.code = PyRef::borrow(code), .is_users = is_users};
  return is_users;
}

uint32_t PythonLines::number_of(PyObject* code, PyObject* frame) {
  auto* const typed = reinterpret_cast<PyFrameObject*>(frame);
  const auto [found, is_new] = numbers_.try_emplace({code, position_in(typed)}, 0);
  if (is_new) {
    const int line = PyFrame_GetLineNumber(typed);
    texts_.push_back(text_attribute(code, "co_filename") + ":" + std::to_string(line) + " in " +
                     text_attribute(code, "co_name"));
    found->second = static_cast<uint32_t>(texts_.size() - 1);
  }
  return found->second;
}

uint32_t PythonLines::current() {
  auto* const innermost = reinterpret_cast<PyObject*>(PyEval_GetFrame());
  if (innermost == nullptr) return 0;
  auto frame = PyRef::borrow(innermost);
  while (true) {
    auto* const typed = reinterpret_cast<PyFrameObject*>(frame.get());
    const auto code = PyRef::steal(reinterpret_cast<PyObject*>(PyFrame_GetCode(typed)));
    if (is_users(code.get())) return number_of(code.get(), frame.get());
    auto* const back = reinterpret_cast<PyObject*>(PyFrame_GetBack(typed));
    if (back == nullptr) return 0;
    frame = PyRef::steal(back);
  }
}

}  // namespace fastfake
