#include "dispatch/interpreter_table.h"

#include <dlfcn.h>

namespace fastfake {

namespace {

// The address at which the library is loaded that `address` is in; null outside of libraries.
const void* library_of(const void* address) {
  Dl_info info;
  return address != nullptr && dladdr(address, &info) != 0 ? info.dli_fbase : nullptr;
}

}  // namespace

// AddressSanitizer would report the one word behind the table that is read.
[[gnu::no_sanitize_address]] size_t count_methods(const c10::impl::PyInterpreterVTable& table) {
  const void* const* methods = *reinterpret_cast<const void* const* const*>(&table);
  const void* library = library_of(methods[0]);
  size_t count = 0;
  while (library != nullptr && library_of(methods[count]) == library) ++count;
  return count;
}

}  // namespace fastfake
