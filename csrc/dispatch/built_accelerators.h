// Types of devices that torch's C++ code takes for ones that torch was built for, for a while.
#pragma once

#include <c10/core/DeviceType.h>

namespace fastfake {

// Whether torch shall take `type` for one that it was built for, on this thread: while a pass of FakeBackward
// is under way on such devices, or `fastfake.pretend` claims that there are some.
bool counts_as_built(c10::DeviceType type);

// From now on torch asks counts_as_built about `type`, if it was not built for it. Needs the GIL.
void let_count_as_built(c10::DeviceType type);

}  // namespace fastfake
