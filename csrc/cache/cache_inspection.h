// The dispatch cache as Python objects, for tests and for those who wonder what it holds.
#pragma once

#include <torch/csrc/utils/pybind.h>

#include <cstdint>
#include <string>
#include <vector>

namespace fastfake {

// The words of the key of a call under `mode`, or the reason for which the call is not cached; None for
// arguments that the operator cannot be called with. Arguments that are left out count as their defaults, and
// as None where they have none.
py::object cache_key(const py::handle& mode, const std::string& name, const std::string& overload,
                     const py::sequence& args, const py::dict& kwargs);

// For each entry the name and overload name of its operator, and the words of its key.
py::list cache_keys();

// What the entry with these words holds: None without one, a text that says why calls are not cached, or a
// list with a tuple for each step of the recipe, whose first element names the kind of step.
py::object cache_entry(const std::vector<uint64_t>& words);

}  // namespace fastfake
