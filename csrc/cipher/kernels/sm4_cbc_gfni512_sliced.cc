#include "cipher/kernels/avx512.h"

// SM4-CBC with the bytes of a word in registers of their own: byte j of a word of all 64 lanes in
// one. So a round's rotations by whole bytes cost nothing, they only name another register; what is
// left of it is the S-box's inversions and the sums. The arithmetic is that of sm4_cbc_lanes.h.
//
// A round waits for the one before, and half of the processor's units with it. Meanwhile they turn
// the blocks to come into that form, and those that are done back.
namespace mindckpt {

namespace {

using V = Avx512Words;
using Reg = V::Reg;

#define ALWAYS_INLINE inline __attribute__((always_inline))

constexpr size_t kBlocks = V::kBlocks;  // in a register
constexpr size_t kGroups = 4;           // of lanes
constexpr size_t kLanes = 64;           // 16 in a group, of which a register holds one word each
constexpr size_t kQuads = 16;           // of lanes
constexpr size_t kRegBytes = 64;
constexpr size_t kStepBytes = kLanes * 16;  // of one message, decrypted

ALWAYS_INLINE Reg sum(Reg a, Reg b) { return V::exclusive_or(a, b); }
ALWAYS_INLINE Reg sum(Reg a, Reg b, Reg c) { return V::exclusive_or(a, b, c); }

// The 4x4 bytes in each 16. It is its own inverse, as V's transposing is.
ALWAYS_INLINE Reg transpose_bytes(Reg x) {
  return _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(_mm_set_epi8(15, 11, 7, 3, 14, 10, 6, 2, 13,
                                                                    9, 5, 1, 12, 8, 4, 0)));
}

// Plain members, as GCC 12 keeps an array of them in memory.
struct Word {
  Reg byte0, byte1, byte2, byte3;
};
struct Block {
  Word a, b, c, d;
};

// From the words of each group.
ALWAYS_INLINE Word slice(Reg group0, Reg group1, Reg group2, Reg group3) {
  Reg x[4] = {transpose_bytes(group0), transpose_bytes(group1), transpose_bytes(group2),
              transpose_bytes(group3)};
  V::transpose_words(x);
  return {x[0], x[1], x[2], x[3]};
}
ALWAYS_INLINE void unslice(const Word& word, Reg& group0, Reg& group1, Reg& group2, Reg& group3) {
  Reg x[4] = {word.byte0, word.byte1, word.byte2, word.byte3};
  V::transpose_words(x);
  group0 = transpose_bytes(x[0]);
  group1 = transpose_bytes(x[1]);
  group2 = transpose_bytes(x[2]);
  group3 = transpose_bytes(x[3]);
}

ALWAYS_INLINE Word sum(const Word& x, const Word& y) {
  return {sum(x.byte0, y.byte0), sum(x.byte1, y.byte1), sum(x.byte2, y.byte2),
          sum(x.byte3, y.byte3)};
}

struct Matrices {
  Reg u0 = V::matrix(kSm4U0);
  Reg u1 = V::matrix(kSm4U1);
  Reg u3 = V::matrix(kSm4U3);
};

// Adds to a word what the S-boxes of two neighbouring bytes give: `s` is the input of the one that
// stands where x0 does, `t` of the one where x1 does.
ALWAYS_INLINE void add_two_bytes(const Matrices& m, Reg& x0, Reg& x1, Reg& x2, Reg& x3, Reg s,
                                 Reg t) {
  const Reg s0 = _mm512_gf2p8affineinv_epi64_epi8(s, m.u0, kSm4Constant);
  const Reg s1 = _mm512_gf2p8affineinv_epi64_epi8(s, m.u1, 0);
  const Reg s3 = _mm512_gf2p8affineinv_epi64_epi8(s, m.u3, 0);
  const Reg t0 = _mm512_gf2p8affineinv_epi64_epi8(t, m.u0, kSm4Constant);
  const Reg t1 = _mm512_gf2p8affineinv_epi64_epi8(t, m.u1, 0);
  const Reg t3 = _mm512_gf2p8affineinv_epi64_epi8(t, m.u3, 0);
  x0 = sum(x0, s0, t1);
  x3 = sum(x3, s1, t1);
  x2 = sum(x2, s1, t3);
  x1 = sum(x1, s3, t0);
  // Keeps the compiler from mixing this with what follows, which takes more registers than there
  // are; the processor mixes it.
  __asm__("" : "+v"(x0), "+v"(x1), "+v"(x2), "+v"(x3));
}

// `keys` has the round key's bytes, each in every byte of a word. d is the word that the round
// before made: it is waited for last.
ALWAYS_INLINE void do_round(const Matrices& m, Word& a, const Word& b, const Word& c, const Word& d,
                            const uint32_t* keys) {
  add_two_bytes(m, a.byte0, a.byte1, a.byte2, a.byte3,
                sum(sum(b.byte0, c.byte0, V::key(keys)), d.byte0),
                sum(sum(b.byte1, c.byte1, V::key(keys + 1)), d.byte1));
  add_two_bytes(m, a.byte2, a.byte3, a.byte0, a.byte1,
                sum(sum(b.byte2, c.byte2, V::key(keys + 2)), d.byte2),
                sum(sum(b.byte3, c.byte3, V::key(keys + 3)), d.byte3));
}

constexpr size_t kTurns = 8;  // of four rounds

// Calls beside(turn) on the way: what is done there costs little.
template <typename Beside>
ALWAYS_INLINE Block encrypted(Block x, const uint32_t* keys, const Beside& beside) {
  const Matrices m;
  for (size_t turn = 0; turn < kTurns; ++turn, keys += 16) {
    beside(turn);
    do_round(m, x.a, x.b, x.c, x.d, keys);
    do_round(m, x.b, x.c, x.d, x.a, keys + 4);
    do_round(m, x.c, x.d, x.a, x.b, keys + 8);
    do_round(m, x.d, x.a, x.b, x.c, keys + 12);
  }
  return {x.d, x.c, x.b, x.a};
}

// Four registers of four lanes (or 16 blocks of one message), as they are in memory, to and from
// one for each word, in the domain.
ALWAYS_INLINE void words_of(Reg* words, const uint8_t* const (&from)[4]) {
  Reg x[4];
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; ++i) x[i] = V::to_domain(V::load(from[i]));
  V::transpose_words(x);
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; ++i) words[i] = x[i];
}

// kBlocks blocks of all lanes. First a group's registers are words of one quad of lanes each, which
// transposing blocks makes words of one block each, and back.
struct Step {
  Reg words[kGroups][4][4];

  ALWAYS_INLINE void load_quad(size_t quad, const uint8_t* const* lanes, size_t at) {
    const uint8_t* const* const from = lanes + 4 * quad;
    words_of(words[quad / 4][quad % 4], {from[0] + at, from[1] + at, from[2] + at, from[3] + at});
  }
  ALWAYS_INLINE void turn_blocks(size_t i) {
    Reg(&group)[4][4] = words[i / 4];
    const size_t word = i % 4;
    Reg x[4] = {group[0][word], group[1][word], group[2][word], group[3][word]};
    V::transpose_blocks(x);
    for (size_t j = 0; j < 4; ++j) group[j][word] = x[j];
  }
  ALWAYS_INLINE void store_quad(size_t quad, uint8_t* const* lanes, size_t at) const {
    const Reg* const from = words[quad / 4][quad % 4];
    Reg x[4] = {from[0], from[1], from[2], from[3]};
    V::transpose_words(x);
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; ++i) V::store(lanes[4 * quad + i] + at, V::from_domain(x[i]));
  }

  void load_all(const uint8_t* const* lanes, size_t at) {
    for (size_t i = 0; i < kQuads; ++i) load_quad(i, lanes, at);
    for (size_t i = 0; i < kQuads; ++i) turn_blocks(i);
  }
  void store_all(uint8_t* const* lanes, size_t at) {
    for (size_t i = 0; i < kQuads; ++i) turn_blocks(i);
    for (size_t i = 0; i < kQuads; ++i) store_quad(i, lanes, at);
  }

  ALWAYS_INLINE Word word(size_t block, size_t i) const {
    return slice(words[0][block][i], words[1][block][i], words[2][block][i], words[3][block][i]);
  }
  ALWAYS_INLINE void set_word(size_t block, size_t i, const Word& word) {
    unslice(word, words[0][block][i], words[1][block][i], words[2][block][i], words[3][block][i]);
  }
  ALWAYS_INLINE Block block(size_t i) const {
    return {word(i, 0), word(i, 1), word(i, 2), word(i, 3)};
  }
  ALWAYS_INLINE void set_block(size_t i, const Block& block) {
    set_word(i, 0, block.a);
    set_word(i, 1, block.b);
    set_word(i, 2, block.c);
    set_word(i, 3, block.d);
  }
};

ALWAYS_INLINE Block sum(const Block& x, const Block& y) {
  return {sum(x.a, y.a), sum(x.b, y.b), sum(x.c, y.c), sum(x.d, y.d)};
}

// Where lanes are that have less than a step.
struct Parts {
  alignas(64) uint8_t bytes[kLanes][kRegBytes] = {};
  uint8_t* lanes[kLanes];

  Parts() {
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] = bytes[lane];
  }
};

void encrypt(const Sm4Schedule& schedule, CbcLane* lanes, size_t num_blocks) {
  const uint8_t* in[kLanes];
  uint8_t* out[kLanes];
  Parts parts;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    in[lane] = lanes[lane].in;
    out[lane] = lanes[lane].out;
    __builtin_memcpy(parts.lanes[lane], lanes[lane].chain, 16);
  }
  Step steps[3];
  Step* before = &steps[0];
  Step* now = &steps[1];
  Step* next = &steps[2];
  now->load_all(parts.lanes, 0);
  Block chain = now->block(0);
  const size_t part_bytes = num_blocks * 16 % kRegBytes;
  const size_t whole_bytes = num_blocks * 16 - part_bytes;

  if (whole_bytes > 0) now->load_all(in, 0);
  for (size_t at = 0; at < whole_bytes; at += kRegBytes) {
    const bool has_before = at > 0;
    const bool has_next = at + kRegBytes < whole_bytes;
    for (size_t i = 0; i < kBlocks; ++i) {
      chain = sum(chain, now->block(i));
      if (i < kBlocks / 2) {
        chain = encrypted(chain, schedule.encrypt_bytes,
                          [&](size_t turn) __attribute__((always_inline)) {
                            const size_t quad = i * kTurns + turn;
                            if (has_next) {
                              next->load_quad(quad, in, at + kRegBytes);
                              for (size_t lane = 4 * quad; lane < 4 * quad + 4; ++lane) {
                                __builtin_prefetch(in[lane] + at + kPrefetchAheadBytes, 0, 2);
                              }
                            }
                            if (has_before) before->turn_blocks(quad);
                          });
      } else {
        chain = encrypted(chain, schedule.encrypt_bytes,
                          [&](size_t turn) __attribute__((always_inline)) {
                            const size_t quad = (i - kBlocks / 2) * kTurns + turn;
                            if (has_next) next->turn_blocks(quad);
                            if (has_before) before->store_quad(quad, out, at - kRegBytes);
                          });
      }
      now->set_block(i, chain);
    }
    Step* const free = before;
    before = now;
    now = next;
    next = free;
  }
  if (whole_bytes > 0) before->store_all(out, whole_bytes - kRegBytes);

  const auto nothing = [](size_t) {};
  if (part_bytes > 0) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      __builtin_memcpy(parts.lanes[lane], in[lane] + whole_bytes, part_bytes);
    }
    now->load_all(parts.lanes, 0);
    for (size_t i = 0; i < part_bytes / 16; ++i) {
      chain = encrypted(sum(chain, now->block(i)), schedule.encrypt_bytes, nothing);
      now->set_block(i, chain);
    }
    now->store_all(parts.lanes, 0);
    for (size_t lane = 0; lane < kLanes; ++lane) {
      __builtin_memcpy(out[lane] + whole_bytes, parts.lanes[lane], part_bytes);
    }
  }
  now->load_all(parts.lanes, 0);  // that all of it is something
  now->set_block(0, chain);
  now->store_all(parts.lanes, 0);
  for (size_t lane = 0; lane < kLanes; ++lane) {
    __builtin_memcpy(lanes[lane].chain, parts.lanes[lane], 16);
  }
}

// 64 blocks of one message: they are the lanes, in the order in which registers hold them.
struct Run {
  Reg words[4][4];
  Reg chained;  // the ciphertext's last block before it, and its first three

  ALWAYS_INLINE void load_quad(size_t quad, const uint8_t* from) {
    from += 4 * quad * kRegBytes;
    words_of(words[quad], {from, from + kRegBytes, from + 2 * kRegBytes, from + 3 * kRegBytes});
  }
  // `in` is its ciphertext. In place: quads from the last to the first, as a register's last block
  // is ciphertext until the next one is done.
  ALWAYS_INLINE void store_quad(size_t quad, const uint8_t* in, uint8_t* to) const {
    Reg x[4] = {words[quad][0], words[quad][1], words[quad][2], words[quad][3]};
    V::transpose_words(x);
#pragma GCC unroll 4
    for (size_t i = 4; i-- > 0;) {
      const size_t at = (4 * quad + i) * kRegBytes;
      V::store(to + at, sum(V::from_domain(x[i]), at > 0 ? V::load(in + at - 16) : chained));
    }
  }
  ALWAYS_INLINE Word word(size_t i) const {
    return slice(words[0][i], words[1][i], words[2][i], words[3][i]);
  }
  ALWAYS_INLINE void set_word(size_t i, const Word& word) {
    unslice(word, words[0][i], words[1][i], words[2][i], words[3][i]);
  }
  template <typename Beside>
  ALWAYS_INLINE void decrypt(const uint32_t* keys, const Beside& beside) {
    const Block plain = encrypted({word(0), word(1), word(2), word(3)}, keys, beside);
    set_word(0, plain.a);
    set_word(1, plain.b);
    set_word(2, plain.c);
    set_word(3, plain.d);
  }
};

void decrypt_steps(const Sm4Schedule& schedule, const uint8_t* chain, const uint8_t* in,
                   uint8_t* out, size_t nbytes) {
  Run runs[3];
  Run* before = &runs[0];
  Run* now = &runs[1];
  Run* next = &runs[2];
  uint8_t start[kRegBytes];
  __builtin_memcpy(start, chain, 16);
  __builtin_memcpy(start + 16, in, kRegBytes - 16);
  now->chained = V::load(start);
  for (size_t quad = 0; quad < 4; ++quad) now->load_quad(quad, in);
  for (size_t at = 0; at < nbytes; at += kStepBytes) {
    const bool has_before = at > 0;
    const bool has_next = at + kStepBytes < nbytes;
    if (has_next) next->chained = V::load(in + at + kStepBytes - 16);
    now->decrypt(schedule.decrypt_bytes, [&](size_t turn) __attribute__((always_inline)) {
      if (turn < 4 && has_next) next->load_quad(turn, in + at + kStepBytes);
      if (turn >= 4 && has_before) {
        before->store_quad(kTurns - 1 - turn, in + at - kStepBytes, out + at - kStepBytes);
      }
    });
    Run* const free = before;
    before = now;
    now = next;
    next = free;
  }
  const size_t last = nbytes - kStepBytes;
  for (size_t quad = 4; quad-- > 0;) before->store_quad(quad, in + last, out + last);
}

void decrypt(const Sm4Schedule& schedule, uint8_t* chain, const uint8_t* in, uint8_t* out,
             size_t num_blocks) {
  const size_t part_bytes = num_blocks * 16 % kStepBytes;
  const size_t whole_bytes = num_blocks * 16 - part_bytes;
  // In place, this is ciphertext no more when what is behind it is decrypted.
  uint8_t start[16];
  __builtin_memcpy(start, chain, 16);
  if (num_blocks > 0) __builtin_memcpy(chain, in + (num_blocks - 1) * 16, 16);
  uint8_t behind_whole[16];
  if (whole_bytes > 0) {
    __builtin_memcpy(behind_whole, in + whole_bytes - 16, 16);
    decrypt_steps(schedule, start, in, out, whole_bytes);
    __builtin_memcpy(start, behind_whole, 16);
  }
  if (part_bytes > 0) {
    uint8_t part[kStepBytes] = {};
    __builtin_memcpy(part, in + whole_bytes, part_bytes);
    decrypt_steps(schedule, start, part, part, kStepBytes);
    __builtin_memcpy(out + whole_bytes, part, part_bytes);
  }
}

}  // namespace

// Its lanes may meet: they are read long before they are needed, and written by whole lines.
const Sm4CbcKernel kSm4CbcGfni512{"AVX-512 with GFNI, 64 lanes", kLanes, encrypt, decrypt, false};

}  // namespace mindckpt
