// How many methods a table of the interpreter has.
//
// The hook stands in for torch's table method by method, in the order of the headers that it was compiled
// with. A release of torch with another table would call one method and reach another.
#pragma once

#include <c10/core/impl/PyInterpreter.h>

#include <cstddef>

namespace fastfake {

// The number of methods in the table that `table` points to. Nothing in a compiled class tells, so they are
// counted until an entry is no address in the library of the first one: what follows a table is another
// table's header, which starts with zero. Methods of the same number in another order go unnoticed.
size_t count_methods(const c10::impl::PyInterpreterVTable& table);

}  // namespace fastfake
