// Entries of the cache that hold only while something is known, and are dropped when that changes.
#pragma once

#include "objects/python_guards.h"

#include <vector>

namespace fastfake {

struct CacheEntry;

// Belongs to one ShapeEnv. In no order that means anything. The cache keeps it, and has to drop its entries
// before it dies.
struct EntryGroup {
  struct Member {
    CacheEntry* entry;
    PyRef scope;  // the symbols that the entry is about, a frozenset; equal ones are the same object
  };
  std::vector<Member> members;
};

}  // namespace fastfake
