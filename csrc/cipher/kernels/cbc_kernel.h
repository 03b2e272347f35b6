#pragma once

#include <cstddef>
#include <cstdint>

// What a kernel of CBC is. Kernels are compiled for processors that the rest of the program may not
// be on, so their files include nothing whose inline functions the linker could take for the rest.
namespace mindckpt {

// A message under way. CBC is serial within one message, so a kernel advances several at once.
struct CbcLane {
  const uint8_t* in;
  uint8_t* out;
  uint8_t chain[16];  // the IV, afterwards the last block of ciphertext
};

inline constexpr size_t kPrefetchAheadBytes = 512;

// Prefetches the lines that all lanes come to next; for every 64 bytes of them. The hardware's
// prefetchers do not follow so many streams: without, AES by VAES runs at 6.3 GB/s instead of 10.4
// on a Zen 4. To the second level, as 32 lanes' lines of the first would meet in it.
template <size_t kLanes>
inline __attribute__((always_inline)) void prefetch_lanes(const uint8_t* const (&in)[kLanes],
                                                          size_t at) {
  constexpr size_t kCacheLineBytes = 64;
  if (at % kCacheLineBytes != 0) return;
  for (size_t lane = 0; lane < kLanes; ++lane)
    __builtin_prefetch(in[lane] + at + kPrefetchAheadBytes, 0, 2);
}

template <typename Schedule>
struct CbcKernel {
  const char* name;
  size_t num_lanes;

  // Encrypts num_blocks blocks of 16 bytes in each of exactly num_lanes lanes. Lanes may be copies
  // of each other, and in place: each step reads all lanes before it writes any.
  void (*encrypt)(const Schedule& schedule, CbcLane* lanes, size_t num_blocks);

  // Decrypts one message, possibly in place. `chain` is as in CbcLane.
  void (*decrypt)(const Schedule& schedule, uint8_t* chain, const uint8_t* in, uint8_t* out,
                  size_t num_blocks);

  // Whether it is slower with all lanes at the same place of a page, that is of a cache.
  bool minds_meeting = true;
};

}  // namespace mindckpt
