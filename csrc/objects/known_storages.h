// The storages of fake tensors whose values are known, in modes with `known_values`.
//
// Whether a value is known is a fact of a storage: what shares the storage of a known value is written to
// along with it. A storage is known while it is in this table, and nowhere else is noted whether it is.
#pragma once

#include "objects/python_guards.h"

#include <c10/core/Storage.h>
#include <c10/util/flat_hash_map.h>
#include <torch/csrc/python_headers.h>

#include <cstdint>

namespace fastfake {

// The GIL guards it. It keeps the storages, which have no data, alive, so that no address is given away
// twice.
class KnownStorages {
 public:
  bool contains(const c10::StorageImpl* storage) const noexcept {
    return known_.count(name_of(storage)) != 0;
  }

  // The owner of what is known of the storage of a tensor; None where nothing is known. Throws a TypeError
  // for anything but a tensor, as `add` does.
  PyRef owner_of(PyObject* tensor) const;

  // Notes that the values on the storage of a tensor are known as long as `owner` lives, to which a weak
  // reference is kept. Returns what names the storage to `remove`; 0 if it is another owner's.
  uintptr_t add(PyObject* tensor, PyObject* owner);
  void remove(uintptr_t storage);

 private:
  struct Known {
    PyRef owner;  // a weak reference
    c10::Storage storage;
  };
  static uintptr_t name_of(const c10::StorageImpl* storage) noexcept {
    return reinterpret_cast<uintptr_t>(storage);
  }

  ska::flat_hash_map<uintptr_t, Known> known_;
};

}  // namespace fastfake
