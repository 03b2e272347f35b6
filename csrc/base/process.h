#pragma once

#include <sys/types.h>

namespace mindckpt {

// This process's number, by which what was made before a fork is told; without a system call each
// time, as it is asked for with every tensor.
pid_t process_id() noexcept;

}  // namespace mindckpt
