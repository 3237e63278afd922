// What native code knows of the calling thread.
#pragma once

#include <array>
#include <cstddef>

namespace fastfake {

constexpr size_t count_of_mode_flags = 3;

struct ThreadState {
  bool inside_kernel = false;          // see KernelInvocation
  bool declines = false;               // see DecliningMode
  bool came_through_the_hook = false;  // whether this thread computes what the hook sent on
  bool forces_modes = false;           // whether is_forced() can be true of any mode
  bool begins_fake_backward = false;   // see FakeBackward
  bool inside_tracked_call = false;    // see TrackedCall
  signed char pretended_index = 0;     // of the current device, see PretendedDevice
  // What becomes of known values in calls that this thread makes: 0 if they are followed. Otherwise a call is
  // being computed, and those that it makes on the way give no values; the number is for Python's use.
  int following = 0;
  // By how many modes that this thread is in each flag is claimed, see ModeFlag.
  std::array<size_t, count_of_mode_flags> mode_flag_claims{};
};

inline constinit thread_local ThreadState thread_state;

}  // namespace fastfake
