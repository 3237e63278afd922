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

// A number that is another one after each change of `dictionary`, on every Python. Where dictionaries have no
// versions it is another one after changes of others too that were asked about. Throws where they have none
// and CPython has no watcher left. Needs the GIL.
#if PY_VERSION_HEX < 0x030C0000
inline uint64_t mark_of(PyObject* dictionary) noexcept { return version_of(dictionary); }
#else
uint64_t mark_of(PyObject* dictionary);
#endif

}  // namespace fastfake
