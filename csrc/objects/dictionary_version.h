// Whether a dictionary changed, without looking into it.
#pragma once

#include <torch/csrc/python_headers.h>

#include <cstdint>

namespace fastfake {

constexpr uint64_t unknown_version = 0;

// Each change of any dictionary of the process gives it a higher number than all had before, so that equal
// numbers mean an unchanged dictionary. Python 3.12 and later keep none: it is `unknown_version` then.
inline uint64_t version_of([[maybe_unused]] PyObject* dictionary) noexcept {
#if PY_VERSION_HEX < 0x030C0000
  return reinterpret_cast<PyDictObject*>(dictionary)->ma_version_tag;
#else
  return unknown_version;
#endif
}

}  // namespace fastfake
