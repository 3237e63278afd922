#include "process_state.h"

namespace fastfake {

ImmortalProcessState immortal_process_state;

}  // namespace fastfake
