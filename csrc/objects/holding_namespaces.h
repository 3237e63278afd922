// Which global variables refer to given objects.
#pragma once

#include <torch/csrc/python_headers.h>
#include <torch/csrc/utils/pybind.h>

namespace fastfake {

// For each of `namespaces`, which are dictionaries, the names of those values that `ids` has, a dictionary by
// the ids of objects; of tuples with such an element; and of all values of one of `types`. Namespaces without
// any are left out. Counts no references to values: in the child of a fork each one counted copies a page of
// memory, and the modules of torch have tens of thousands.
pybind11::list holding_namespaces(const pybind11::list& namespaces, const pybind11::dict& ids,
                                  const pybind11::tuple& types);

}  // namespace fastfake
