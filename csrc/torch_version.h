#pragma once

#include <torch/headeronly/version.h>

// Whether the torch that this is compiled for is of that minor release or a later one. Everything that
// differs between the supported releases asks this; python/fastfake/torch_version.py is its counterpart.
#define FASTFAKE_TORCH_AT_LEAST(major, minor) \
  (TORCH_VERSION_MAJOR > (major) || (TORCH_VERSION_MAJOR == (major) && TORCH_VERSION_MINOR >= (minor)))
