#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "cipher/cipher.h"

// How fast the stages of a save are that only compute, with nothing else to do: what benchmarks
// hold saves to. All return seconds.
namespace mindckpt {

// Seals, or opens, `nbytes` on `num_threads` threads, a block of a save's at a time, in cache.
double cipher_seconds(const Cipher& cipher, uint64_t nbytes, int num_threads, bool opening);

// Sums `data` on `num_threads` threads, without putting the pieces' sums together.
double crc32_seconds(ByteView data, int num_threads);

}  // namespace mindckpt
