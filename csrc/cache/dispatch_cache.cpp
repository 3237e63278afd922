#include "cache/dispatch_cache.h"

#include <utility>

namespace fastfake {

CacheEntry* DispatchCache::look_up(const CallKey& key) {
  const auto found = table_.find(WordsView{key.words(), key.hash()});
  if (found == table_.end()) return nullptr;
  if (key.operator_id() >= last_hits_.size()) last_hits_.resize(key.operator_id() + 1, nullptr);
  return last_hits_[key.operator_id()] = found->second.get();
}

void DispatchCache::insert(const CallKey& key, Recipe recipe, Bypass bypass) {
  const auto* symbols = key.symbols();
  // Before the table is looked at, as it can call Python.
  PyObject* scope = symbols == nullptr ? nullptr : symbols->scope();
  const uint64_t hash = key.hash();
  if (table_.find(WordsView{key.words(), hash}) != table_.end()) return;
  auto entry = c10::make_intrusive<CacheEntry>();
  entry->words = key.words().vec();
  entry->hash = hash;
  entry->bypass = bypass;
  entry->recipe = std::move(recipe);
  entry->position = clock_.size();
  clock_.push_back(entry.get());
  if (symbols != nullptr) {
    entry->group = &symbols->table().answers();
    entry->position_in_group = entry->group->members.size();
    entry->group->members.push_back({entry.get(), PyRef::borrow(scope)});
  }
  bytes_of_entries_ += entry->bytes();
  const WordsView owned{entry->words, entry->hash};
  table_.emplace(owned, std::move(entry));
  if (bytes() > limit_) sweep();
}

const CacheEntry* DispatchCache::peek(c10::ArrayRef<uint64_t> words) const {
  const auto found = table_.find(WordsView{words, hash_words(words)});
  return found == table_.end() ? nullptr : found->second.get();
}

void DispatchCache::erase(c10::ArrayRef<uint64_t> words) {
  if (const CacheEntry* entry = peek(words)) erase_at(entry->position);
}

void DispatchCache::clear() {
  statistics = {};
  drop_entries();
}

void DispatchCache::drop_entries() {
  // The entries die after the members are consistent again: a destructor may run Python code.
  for (CacheEntry* entry : clock_) {
    if (entry->group != nullptr) entry->group->members.clear();
  }
  auto entries = std::exchange(table_, {});
  clock_ = std::vector<CacheEntry*>();
  last_hits_.clear();
  hand_ = 0;
  bytes_of_entries_ = 0;
}

void DispatchCache::set_limit(size_t limit) {
  limit_ = limit;
  if (bytes() > limit_) sweep();
}

size_t DispatchCache::bytes() const {
  // Beside each slot the table notes how far its entry is from where it should be.
  constexpr size_t slot = sizeof(decltype(table_)::value_type) + alignof(decltype(table_)::value_type);
  return bytes_of_entries_ + heap_bytes(table_.bucket_count() * slot) +
         heap_bytes(clock_.capacity() * sizeof(CacheEntry*));
}

void DispatchCache::erase_at(size_t position_in_clock) {
  const CacheEntry* entry = clock_[position_in_clock];
  bytes_of_entries_ -= entry->bytes();
  const uint64_t operator_id = entry->words.front();
  if (last_hit_of(operator_id) == entry) last_hits_[operator_id] = nullptr;
  clock_.back()->position = position_in_clock;
  clock_[position_in_clock] = clock_.back();
  clock_.pop_back();
  if (EntryGroup* group = entry->group) {
    group->members.back().entry->position_in_group = entry->position_in_group;
    std::swap(group->members[entry->position_in_group], group->members.back());
    group->members.pop_back();
  }
  table_.erase(WordsView{entry->words, entry->hash});
}

void DispatchCache::sweep() {
  // An eighth below the limit, so that the next insertion does not sweep again.
  const size_t target = limit_ - limit_ / 8;
  while (bytes() > target && !clock_.empty()) {
    if (hand_ >= clock_.size()) hand_ = 0;
    CacheEntry* candidate = clock_[hand_];
    if (std::exchange(candidate->hit_since_sweep, false)) {
      ++hand_;
      continue;
    }
    erase_at(hand_);
    shrink_if_sparse();
  }
}

void DispatchCache::shrink_if_sparse() {
  if (8 * clock_.size() >= table_.bucket_count()) return;
  table_.shrink_to_fit();
  clock_.shrink_to_fit();
}

}  // namespace fastfake
