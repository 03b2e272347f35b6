#pragma once

#include <cstdint>
#include <string>

namespace mindckpt {

// Bytes of host memory that this process can still get without swapping: what the kernel says, and
// the control groups (of either version) that it is in, their ancestors among them. The greatest
// number there is where nothing is said. `root` is where the system's files are, "/" but in tests.
uint64_t available_host_memory(const std::string& root = "/");

}  // namespace mindckpt
