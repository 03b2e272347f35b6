#pragma once

#include "cipher/kernels/aes.h"

// AES-CBC over any vector type. `V` has
//   Reg, and kBlocks: how many cipher blocks it holds
//   kRegs: how many of them are worked on at once, enough to hide an instruction's latency
//   key(p): 16 bytes in every block;  load(p), store(p, reg): consecutive blocks;  exclusive_or
//   gather(pointers, at), scatter(pointers, at, reg): the block at byte `at` of each pointer
//   shift_in(before, reg): `reg` moved up by one block, the last block of `before` coming in
//   Encrypt, Decrypt: begin(x, key0), round(x, key, next_key), end(x, key, last_key). x86 adds a
//   round's key at its end, ARM at its beginning.
namespace mindckpt {

// `keys` are those of all rounds. All of x[] advances together.
template <typename V, typename Direction, int kRounds>
inline __attribute__((always_inline)) void aes_blocks(typename V::Reg* x,
                                                      const uint8_t (*keys)[16]) {
  auto key = V::key(keys[0]);
  for (size_t i = 0; i < V::kRegs; ++i) x[i] = Direction::begin(x[i], key);
  for (int round = 1; round < kRounds; ++round) {
    const auto next = V::key(keys[round]);
    for (size_t i = 0; i < V::kRegs; ++i) x[i] = Direction::round(x[i], key, next);
    key = next;
  }
  const auto last = V::key(keys[kRounds]);
  for (size_t i = 0; i < V::kRegs; ++i) x[i] = Direction::end(x[i], key, last);
}

template <typename V, int kRounds>
void aes_cbc_encrypt(const AesSchedule& schedule, CbcLane* lanes, size_t num_blocks) {
  constexpr size_t kLanes = V::kRegs * V::kBlocks;
  const uint8_t* in[kLanes];
  uint8_t* out[kLanes];
  const uint8_t* chains[kLanes];
  for (size_t lane = 0; lane < kLanes; ++lane) {
    in[lane] = lanes[lane].in;
    out[lane] = lanes[lane].out;
    chains[lane] = lanes[lane].chain;
  }
  typename V::Reg x[V::kRegs];
  for (size_t i = 0; i < V::kRegs; ++i) x[i] = V::gather(chains + i * V::kBlocks, 0);
  for (size_t at = 0; at < num_blocks * 16; at += 16) {
    prefetch_lanes(in, at);
    for (size_t i = 0; i < V::kRegs; ++i) {
      x[i] = V::exclusive_or(x[i], V::gather(in + i * V::kBlocks, at));
    }
    aes_blocks<V, typename V::Encrypt, kRounds>(x, schedule.encrypt);
    for (size_t i = 0; i < V::kRegs; ++i) V::scatter(out + i * V::kBlocks, at, x[i]);
  }
  uint8_t* ends[kLanes];
  for (size_t lane = 0; lane < kLanes; ++lane) ends[lane] = lanes[lane].chain;
  for (size_t i = 0; i < V::kRegs; ++i) V::scatter(ends + i * V::kBlocks, 0, x[i]);
}

// As many blocks as fit the registers, then the rest one register's worth at a time in a copy.
template <typename V, int kRounds>
void aes_cbc_decrypt(const AesSchedule& schedule, uint8_t* chain, const uint8_t* in, uint8_t* out,
                     size_t num_blocks) {
  constexpr size_t kStep = V::kRegs * V::kBlocks;
  auto before = V::key(chain);
  const auto step = [&](const uint8_t* from, uint8_t* to) __attribute__((always_inline)) {
    typename V::Reg ciphertext[V::kRegs];
    typename V::Reg x[V::kRegs];
    for (size_t i = 0; i < V::kRegs; ++i) {
      x[i] = ciphertext[i] = V::load(from + i * V::kBlocks * 16);
    }
    aes_blocks<V, typename V::Decrypt, kRounds>(x, schedule.decrypt);
    for (size_t i = 0; i < V::kRegs; ++i) {
      const auto shifted = V::shift_in(i == 0 ? before : ciphertext[i - 1], ciphertext[i]);
      V::store(to + i * V::kBlocks * 16, V::exclusive_or(x[i], shifted));
    }
    before = ciphertext[V::kRegs - 1];
  };
  for (; num_blocks >= kStep; num_blocks -= kStep, in += kStep * 16, out += kStep * 16) {
    step(in, out);
  }
  uint8_t last[16 * V::kBlocks];
  V::store(last, before);
  __builtin_memcpy(chain, last + sizeof(last) - 16, 16);
  if (num_blocks == 0) return;
  uint8_t part[kStep * 16] = {};
  __builtin_memcpy(part, in, num_blocks * 16);
  __builtin_memcpy(chain, part + (num_blocks - 1) * 16, 16);
  step(part, part);
  __builtin_memcpy(out, part, num_blocks * 16);
}

template <typename V>
void aes_cbc_encrypt_any(const AesSchedule& schedule, CbcLane* lanes, size_t num_blocks) {
  if (schedule.num_rounds == 10) return aes_cbc_encrypt<V, 10>(schedule, lanes, num_blocks);
  if (schedule.num_rounds == 12) return aes_cbc_encrypt<V, 12>(schedule, lanes, num_blocks);
  aes_cbc_encrypt<V, 14>(schedule, lanes, num_blocks);
}

template <typename V>
void aes_cbc_decrypt_any(const AesSchedule& schedule, uint8_t* chain, const uint8_t* in,
                         uint8_t* out, size_t num_blocks) {
  if (schedule.num_rounds == 10)
    return aes_cbc_decrypt<V, 10>(schedule, chain, in, out, num_blocks);
  if (schedule.num_rounds == 12)
    return aes_cbc_decrypt<V, 12>(schedule, chain, in, out, num_blocks);
  aes_cbc_decrypt<V, 14>(schedule, chain, in, out, num_blocks);
}

}  // namespace mindckpt
