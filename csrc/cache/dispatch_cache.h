// The dispatch cache: from the key of a call to the recipe of its results, or to why there is none.
//
// One table for the process; the GIL guards it. Entries hold words, prototypes without storage and interned
// devices: never a model, a mode or a ShapeEnv. Those for symbolic shapes belong to the group of their
// ShapeEnv, and are dropped with it. Memory is bounded: when the entries exceed the limit, those not hit
// since the last sweep go first (second chance).
#pragma once

#include "cache/call_key.h"
#include "cache/entry_group.h"
#include "cache/heap_bytes.h"
#include "cache/recipe.h"

#include <c10/util/flat_hash_map.h>
#include <c10/util/intrusive_ptr.h>

#include <cstdint>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

namespace fastfake {

struct CacheEntry final : c10::intrusive_ptr_target {
  std::vector<uint64_t> words;
  uint64_t hash = 0;
  Bypass bypass = nullptr;  // null: `recipe` makes the results
  Recipe recipe;
  size_t position = 0;  // among DispatchCache::entries()
  EntryGroup* group = nullptr;
  size_t position_in_group = 0;
  bool hit_since_sweep = false;

  size_t bytes() const {
    return heap_bytes(sizeof(CacheEntry)) + heap_bytes(words.capacity() * sizeof(uint64_t)) + recipe.bytes() +
           (group == nullptr ? 0 : sizeof(EntryGroup::Member));
  }
};

struct CacheStatistics {
  int64_t hits = 0;
  int64_t misses = 0;
  // Calls that the mode left to a class with `__torch_dispatch__` of its own among the arguments.
  int64_t declined = 0;
  // By reason, and by the id of the operator.
  std::map<std::pair<std::string_view, uint64_t>, int64_t> bypasses;
};

class DispatchCache {
 public:
  // The entry for `key`, or null. The caller's reference keeps the entry whole if Python code that runs
  // meanwhile clears the cache.
  c10::intrusive_ptr<CacheEntry> find(const CallKey& key) {
    CacheEntry* last = last_hit_of(key.operator_id());
    if (last == nullptr || key.words() != last->words) last = look_up(key);
    if (last == nullptr) return {};
    last->hit_since_sweep = true;
    return c10::intrusive_ptr<CacheEntry>::reclaim_copy(last);
  }
  // Remembers the answer to calls with `key`, as long as its group is not dropped.
  void insert(const CallKey& key, Recipe recipe, Bypass bypass);
  // The entry with these words, or null, for those who only look: it does not count as a hit.
  const CacheEntry* peek(c10::ArrayRef<uint64_t> words) const;
  // Drops the entry with these words, if there is one.
  void erase(c10::ArrayRef<uint64_t> words);
  // Drops those entries of `group` whose scope `is_concerned` tells to: a function of a frozenset of symbols.
  template <typename Predicate>
  void drop_from(EntryGroup& group, Predicate is_concerned) {
    for (size_t i = group.members.size(); i-- > 0;) {
      if (is_concerned(group.members[i].scope.get())) erase_at(group.members[i].entry->position);
    }
    shrink_if_sparse();
  }
  void clear();
  // Drops all entries; the statistics go on.
  void drop_entries();

  // All entries, in no order that means anything. Valid until the cache changes.
  c10::ArrayRef<CacheEntry*> entries() const { return clock_; }

  size_t size() const { return table_.size(); }
  // The memory that the entries and the table of them hold, in bytes.
  size_t bytes() const;
  size_t limit() const { return limit_; }
  // Sets the most bytes that entries may hold together; drops entries at once if there are more.
  void set_limit(size_t limit);

  CacheStatistics statistics;

 private:
  // Looks at words owned by a caller or by an entry.
  struct WordsView {
    c10::ArrayRef<uint64_t> words;
    uint64_t hash;
    bool operator==(const WordsView& other) const { return hash == other.hash && words == other.words; }
  };
  struct HashOfWords {
    size_t operator()(const WordsView& view) const { return view.hash; }
  };

  CacheEntry* last_hit_of(uint64_t operator_id) const {
    return operator_id < last_hits_.size() ? last_hits_[operator_id] : nullptr;
  }
  CacheEntry* look_up(const CallKey& key);
  void erase_at(size_t position_in_clock);
  void sweep();
  // Gives back the room in the table that was needed for many more entries than there are.
  void shrink_if_sparse();

  ska::flat_hash_map<WordsView, c10::intrusive_ptr<CacheEntry>, HashOfWords> table_;
  std::vector<CacheEntry*> clock_;  // all entries of the table, in the order in which sweeps look at them
  // By operator: programs often repeat a call, and comparing its words with those of the last hit is less
  // than hashing them. Entries of the table, or null.
  std::vector<CacheEntry*> last_hits_;
  size_t hand_ = 0;
  size_t bytes_of_entries_ = 0;
  size_t limit_ = size_t{256} << 20;
};

}  // namespace fastfake
