// The tag by which the ledger knows a storage: the context of its data pointer, which a storage without data
// has no other use for. Its deleter is called when the storage dies, from whatever thread.
#pragma once

#include <c10/core/StorageImpl.h>

#include <atomic>
#include <cstdint>

namespace fastfake {

// Memory that one storage has, or several that are the same memory in truth.
struct TrackedStorage {
  std::atomic<uint32_t> owners = 1;
  uint64_t session = 0;  // of the tracker that knows it
  uint32_t number = 0;   // of the storage, for that tracker
  int64_t bytes = 0;     // as last told
  uint8_t role = 0;      // as last told; 0 for none
  c10::Device device = c10::kCPU;
  // Once it is dead: when that was, and what died before.
  uint64_t died = 0;
  TrackedStorage* died_before = nullptr;
};

// The tag of a storage, or null.
TrackedStorage* tag_of(c10::StorageImpl& storage) noexcept;

// Gives a storage a tag, which it owns from now on together with the tag's other storages.
void put_tag(c10::StorageImpl& storage, TrackedStorage* tag);

// What the storage holds in bytes; of a symbolic size its hint, and nothing where that is not known. Needs
// the GIL and calls Python for symbolic sizes.
int64_t bytes_of(const c10::StorageImpl& storage);

}  // namespace fastfake
