#pragma once

#include <string.h>

#include <cstddef>

namespace mindckpt {

// Overwrites what was secret, and no optimiser leaves it out.
inline void wipe(void* data, size_t nbytes) noexcept { ::explicit_bzero(data, nbytes); }

}  // namespace mindckpt
