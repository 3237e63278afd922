// Names for the meanings of symbolic numbers.
#pragma once

#include <cstdint>

namespace fastfake {

// Names what a node means: its expression, type, hint and constant, among the nodes of one ShapeEnv. No two
// ShapeEnvs of a process have one in common. 0 stands for none.
using SymbolId = uint64_t;

}  // namespace fastfake
