#pragma once

#include "cipher/kernels/sm4.h"

// SM4-CBC over any vector type, without a table that is looked up by secret data.
//
// SM4's S-box (GB/T 32907) is an inversion between two affine maps, in a field that is isomorphic
// to AES's: S(x) = B(inv(M x ^ c)) with inv AES's inversion, so that the instructions for AES, or
// the Galois field ones, compute it. All words are kept multiplied by M, byte for byte: being
// linear, M goes through every XOR of a round, and the S-box's input needs no map of its own. The
// round keys hold M k ^ c. The rest of a round, the map B, then the linear map L, then M, is a sum
// of four bytes of the word, each multiplied by a matrix: L rotates by 2, 10, 18 and 24 bits, that
// is whole bytes and 2 bits that go over a byte's border, so out[j] = U0 b[j] ^ U1 b[j+1] ^ U1
// b[j+2] ^ U3 b[j+3] in the order in which big-endian words lie in memory. Words are never
// byte-swapped. The constants were computed from these definitions.
//
// `V` has
//   Reg, kBlocks: how many cipher blocks it holds. A group is 4 * kBlocks lanes; a block of each is
//     4 registers, one for each word
//   kGroups: how many groups are worked on at once
//   load(p), store(p, reg): kBlocks consecutive blocks
//   transpose_words(reg[4]): the 4x4 words in each 16 bytes;  transpose_blocks(reg[kBlocks]): all
//     of the blocks in them. Each is its own inverse
//   to_domain, from_domain: M and its inverse
//   key(p): a round key in every word;  exclusive_or of two, three
//   transform(reg): what a round does to the sum of three words and the key
//   finish(reg): keeps the compiler from mixing the groups' work, where that takes more registers
//     than there are; the processor mixes it
namespace mindckpt {

template <typename V>
inline __attribute__((always_inline)) void sm4_rounds(typename V::Reg (*x)[4],
                                                      const uint32_t* keys) {
  const auto round = [&](size_t a, size_t b, size_t c, size_t d,
                         const uint32_t* at) __attribute__((always_inline)) {
    const auto key = V::key(at);
    for (size_t g = 0; g < V::kGroups; ++g) {
      // Word d is the one that the round before made: it is waited for last.
      const auto sum = V::exclusive_or(V::exclusive_or(x[g][b], x[g][c], key), x[g][d]);
      x[g][a] = V::exclusive_or(x[g][a], V::transform(sum));
      V::finish(x[g][a]);
    }
  };
  for (size_t i = 0; i < 32; i += 4) {
    round(0, 1, 2, 3, keys + i);
    round(1, 2, 3, 0, keys + i + 1);
    round(2, 3, 0, 1, keys + i + 2);
    round(3, 0, 1, 2, keys + i + 3);
  }
  // The words come out in reverse.
  for (size_t g = 0; g < V::kGroups; ++g) {
    const auto first = x[g][0];
    const auto second = x[g][1];
    x[g][0] = x[g][3];
    x[g][1] = x[g][2];
    x[g][2] = second;
    x[g][3] = first;
  }
}

// Between registers that each hold kBlocks blocks of one lane in four, and one block of all lanes.
template <typename V>
inline __attribute__((always_inline)) void sm4_transpose_blocks(const typename V::Reg (*from)[4],
                                                                typename V::Reg (*to)[4]) {
  for (size_t word = 0; word < 4; ++word) {
    typename V::Reg column[V::kBlocks];
    for (size_t i = 0; i < V::kBlocks; ++i) column[i] = from[i][word];
    V::transpose_blocks(column);
    for (size_t i = 0; i < V::kBlocks; ++i) to[i][word] = column[i];
  }
}

// kBlocks blocks of a group's lanes at byte `at`, in the domain: words[i] is block i of all lanes.
// Whole registers are read, as 16 bytes a lane would take a third of the kernel's time.
template <typename V>
inline __attribute__((always_inline)) void sm4_load(typename V::Reg (*words)[4],
                                                    const uint8_t* const* from, size_t at) {
  typename V::Reg rows[V::kBlocks][4];
  for (size_t i = 0; i < V::kBlocks; ++i) {
    for (size_t j = 0; j < 4; ++j) rows[i][j] = V::to_domain(V::load(from[4 * i + j] + at));
    V::transpose_words(rows[i]);
  }
  sm4_transpose_blocks<V>(rows, words);
}
template <typename V>
inline __attribute__((always_inline)) void sm4_store(uint8_t* const* to, size_t at,
                                                     const typename V::Reg (*words)[4]) {
  typename V::Reg rows[V::kBlocks][4];
  sm4_transpose_blocks<V>(words, rows);
  for (size_t i = 0; i < V::kBlocks; ++i) {
    V::transpose_words(rows[i]);
    for (size_t j = 0; j < 4; ++j) V::store(to[4 * i + j] + at, V::from_domain(rows[i][j]));
  }
}

template <typename V>
struct Sm4CbcEncryption {
  static constexpr size_t kInGroup = 4 * V::kBlocks;
  static constexpr size_t kLanes = V::kGroups * kInGroup;
  static constexpr size_t kStepBytes = V::kBlocks * 16;

  // Where lanes are that have less than a step.
  struct Parts {
    alignas(64) uint8_t bytes[kLanes][kStepBytes] = {};
    uint8_t* lanes[kLanes];

    Parts() {
      for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] = bytes[lane];
    }
  };

  typename V::Reg chain[V::kGroups][4];
  typename V::Reg words[V::kGroups][V::kBlocks][4];

  inline __attribute__((always_inline)) void load(const uint8_t* const* from, size_t at) {
    for (size_t g = 0; g < V::kGroups; ++g) sm4_load<V>(words[g], from + g * kInGroup, at);
  }
  inline __attribute__((always_inline)) void store(uint8_t* const* to, size_t at) const {
    for (size_t g = 0; g < V::kGroups; ++g) sm4_store<V>(to + g * kInGroup, at, words[g]);
  }
  // The words' first blocks are the chain from now on, or the chain is the words' first blocks.
  void take_chain() {
    for (size_t g = 0; g < V::kGroups; ++g) {
      for (size_t i = 0; i < 4; ++i) chain[g][i] = words[g][0][i];
    }
  }
  void give_chain() {
    for (size_t g = 0; g < V::kGroups; ++g) {
      for (size_t i = 0; i < 4; ++i) words[g][0][i] = chain[g][i];
    }
  }
  inline __attribute__((always_inline)) void encrypt(const uint32_t* keys, size_t num_blocks) {
    typename V::Reg x[V::kGroups][4];
    for (size_t g = 0; g < V::kGroups; ++g) {
      for (size_t i = 0; i < 4; ++i) x[g][i] = chain[g][i];
    }
    for (size_t b = 0; b < num_blocks; ++b) {
      for (size_t g = 0; g < V::kGroups; ++g) {
        for (size_t i = 0; i < 4; ++i) x[g][i] = V::exclusive_or(x[g][i], words[g][b][i]);
      }
      sm4_rounds<V>(x, keys);
      for (size_t g = 0; g < V::kGroups; ++g) {
        for (size_t i = 0; i < 4; ++i) words[g][b][i] = x[g][i];
      }
    }
    for (size_t g = 0; g < V::kGroups; ++g) {
      for (size_t i = 0; i < 4; ++i) chain[g][i] = x[g][i];
    }
  }
};

template <typename V>
void sm4_cbc_encrypt(const Sm4Schedule& schedule, CbcLane* lanes, size_t num_blocks) {
  using Encryption = Sm4CbcEncryption<V>;
  constexpr size_t kLanes = Encryption::kLanes;
  constexpr size_t kStepBytes = Encryption::kStepBytes;
  const uint8_t* in[kLanes];
  uint8_t* out[kLanes];
  typename Encryption::Parts parts;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    in[lane] = lanes[lane].in;
    out[lane] = lanes[lane].out;
    __builtin_memcpy(parts.lanes[lane], lanes[lane].chain, 16);
  }
  Encryption encryption;
  encryption.load(parts.lanes, 0);
  encryption.take_chain();
  const size_t part_bytes = num_blocks * 16 % kStepBytes;
  const size_t whole_bytes = num_blocks * 16 - part_bytes;
  for (size_t at = 0; at < whole_bytes; at += kStepBytes) {
    prefetch_lanes(in, at);
    encryption.load(in, at);
    encryption.encrypt(schedule.encrypt, V::kBlocks);
    encryption.store(out, at);
  }
  if (part_bytes > 0) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      __builtin_memcpy(parts.lanes[lane], in[lane] + whole_bytes, part_bytes);
    }
    encryption.load(parts.lanes, 0);
    encryption.encrypt(schedule.encrypt, part_bytes / 16);
    encryption.store(parts.lanes, 0);
    for (size_t lane = 0; lane < kLanes; ++lane) {
      __builtin_memcpy(out[lane] + whole_bytes, parts.lanes[lane], part_bytes);
    }
  }
  encryption.give_chain();
  encryption.store(parts.lanes, 0);
  for (size_t lane = 0; lane < kLanes; ++lane) {
    __builtin_memcpy(lanes[lane].chain, parts.lanes[lane], 16);
  }
}

// The blocks of one message are the lanes, in the order in which registers hold them; what does not
// fill all registers is worked on in a copy.
template <typename V>
void sm4_cbc_decrypt(const Sm4Schedule& schedule, uint8_t* chain, const uint8_t* in, uint8_t* out,
                     size_t num_blocks) {
  constexpr size_t kRegBytes = V::kBlocks * 16;
  constexpr size_t kStep = V::kGroups * 4 * V::kBlocks;
  const auto step = [&](const uint8_t* from, uint8_t* to) __attribute__((always_inline)) {
    uint8_t start[16 + kRegBytes];
    __builtin_memcpy(start, chain, 16);
    __builtin_memcpy(start + 16, from, kRegBytes);
    const auto before = V::load(start);
    __builtin_memcpy(chain, from + (kStep - 1) * 16, 16);
    typename V::Reg x[V::kGroups][4];
    for (size_t g = 0; g < V::kGroups; ++g) {
      for (size_t i = 0; i < 4; ++i) {
        x[g][i] = V::to_domain(V::load(from + (4 * g + i) * kRegBytes));
      }
      V::transpose_words(x[g]);
    }
    sm4_rounds<V>(x, schedule.decrypt);
    // From the end on: in place, a register's last block is ciphertext until the next one is done.
    for (size_t g = V::kGroups; g-- > 0;) {
      V::transpose_words(x[g]);
      for (size_t i = 4; i-- > 0;) {
        const size_t at = (4 * g + i) * kRegBytes;
        const auto chained = at > 0 ? V::load(from + at - 16) : before;
        V::store(to + at, V::exclusive_or(V::from_domain(x[g][i]), chained));
      }
    }
  };
  for (; num_blocks >= kStep; num_blocks -= kStep, in += kStep * 16, out += kStep * 16) {
    step(in, out);
  }
  if (num_blocks == 0) return;
  uint8_t part[kStep * 16] = {};
  __builtin_memcpy(part, in, num_blocks * 16);
  step(part, part);
  __builtin_memcpy(chain, in + (num_blocks - 1) * 16, 16);
  __builtin_memcpy(out, part, num_blocks * 16);
}

// M, its inverse, U0, U1 and U3 as GFNI's instructions take matrices; U0's constant is that of all.
inline constexpr uint64_t kSm4M = 0x4C287DB91A22505D;
inline constexpr uint64_t kSm4MInverse = 0xB3A4F5863284728B;
inline constexpr uint64_t kSm4U0 = 0x040DB891E9A481B7;
inline constexpr uint64_t kSm4U1 = 0x2C020425162040AD;
inline constexpr uint64_t kSm4U3 = 0x280FBCB4FF84C11A;
inline constexpr int kSm4Constant = 0x63;

// The same for table look-ups by half bytes (the low half's, then the high half's), and the U
// behind AES's S-box, whose own affine map they undo.
struct Sm4Table {
  uint8_t low[16];
  uint8_t high[16];
};
inline constexpr Sm4Table kSm4MTable{
    {0, 140, 48, 188, 133, 9, 181, 57, 159, 19, 175, 35, 26, 150, 42, 166},
    {0, 220, 46, 242, 197, 25, 235, 55, 8, 212, 38, 250, 205, 17, 227, 63}};
inline constexpr Sm4Table kSm4MInverseTable{
    {0, 133, 217, 92, 46, 171, 247, 114, 128, 5, 89, 220, 174, 43, 119, 242},
    {0, 85, 87, 2, 68, 17, 19, 70, 175, 250, 248, 173, 235, 190, 188, 233}};
inline constexpr Sm4Table kSm4U0Table{
    {26, 156, 201, 79, 98, 228, 177, 55, 6, 128, 213, 83, 126, 248, 173, 43},
    {0, 235, 220, 55, 240, 27, 44, 199, 205, 38, 17, 250, 61, 214, 225, 10}};
inline constexpr Sm4Table kSm4U1Table{
    {21, 198, 24, 203, 181, 102, 184, 107, 87, 132, 90, 137, 247, 36, 250, 41},
    {0, 180, 73, 253, 130, 54, 203, 127, 188, 8, 245, 65, 62, 138, 119, 195}};
inline constexpr Sm4Table kSm4U3Table{
    {108, 57, 178, 231, 180, 225, 106, 63, 50, 103, 236, 185, 234, 191, 52, 97},
    {0, 95, 149, 202, 114, 45, 231, 184, 113, 46, 228, 187, 3, 92, 150, 201}};

// Where each byte is after AES's ShiftRows, which AESENCLAST and AESE do before the S-box, once a
// word is rotated by so many bytes: out[j] = b[j + bytes].
struct Sm4Shuffle {
  uint8_t from[16];
};
constexpr Sm4Shuffle sm4_unshift_rows(int bytes) {
  Sm4Shuffle shuffle{};
  for (int i = 0; i < 16; ++i) {
    const int wanted = i / 4 * 4 + (i + bytes) % 4;
    // ShiftRows moves byte r + 4c to column c - r.
    shuffle.from[i] = static_cast<uint8_t>((wanted % 4 + 4 * ((wanted / 4 + 4 - wanted % 4) % 4)));
  }
  return shuffle;
}

}  // namespace mindckpt
