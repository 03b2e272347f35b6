#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "cipher/cbc.h"
#include "cipher/kernels/cbc_kernel.h"
#include "cipher/key_memory.h"
#include "cipher/usable_kernels.h"

namespace mindckpt {

// CBC by kernels that advance several messages in lanes.
template <typename Schedule>
class LaneCbc final : public CbcTransform {
 public:
  using Kernel = CbcKernel<Schedule>;

  // The kernels are usable here, the first one the fastest for many messages, those behind it
  // narrower. They stay where they are. `expand(schedule)` fills the schedule in, at its own place.
  template <typename Expand>
  LaneCbc(std::vector<const Kernel*> kernels, const Expand& expand) : kernels_(std::move(kernels)) {
    expand(*schedule_);
    for (const Kernel* kernel : kernels_) MINDCKPT_CHECK(kernel->num_lanes <= kMostLanes);
  }

  void encrypt(const Iv& iv, ByteView plain, ByteSpan ciphertext) const override {
    CbcMessage message{iv, plain, ciphertext};
    encrypt_all({&message, 1});
  }

  void decrypt(const Iv& iv, ByteView ciphertext, ByteSpan plain) const override {
    MINDCKPT_CHECK(ciphertext.size() % kIvBytes == 0 && plain.size() >= ciphertext.size());
    Iv chain = iv;
    const size_t num_blocks = ciphertext.size() / kIvBytes;
    narrowest_for(num_blocks)
        .decrypt(*schedule_, uchars(ByteSpan(chain)), uchars(ciphertext), uchars(plain),
                 num_blocks);
  }

  void encrypt_all(std::span<CbcMessage> messages) const override {
    while (!messages.empty()) {
      const size_t count = std::min(messages.size(), kernels_.front()->num_lanes);
      encrypt_together(messages.first(count));
      messages = messages.subspan(count);
    }
  }

 private:
  static constexpr size_t kMostLanes = 64;
  // How far a lane is ahead of the next one where all would meet in the cache: a line of it.
  static constexpr size_t kStaggerBlocks = 4;

  // The messages under way, in the order of the lanes.
  struct Team {
    std::array<CbcLane, kMostLanes> lanes{};
    std::array<CbcMessage*, kMostLanes> owners;
    std::array<size_t, kMostLanes> blocks_left;
    size_t count = 0;

    size_t least_left() const {
      return *std::min_element(blocks_left.begin(),
                               blocks_left.begin() + static_cast<ptrdiff_t>(count));
    }
  };

  void encrypt_together(std::span<CbcMessage> messages) const {
    Team team;
    for (CbcMessage& message : messages) {
      MINDCKPT_CHECK(message.plain.size() % kIvBytes == 0 &&
                     message.ciphertext.size() >= message.plain.size());
      if (message.plain.empty()) continue;
      CbcLane& lane = team.lanes[team.count];
      lane = {uchars(message.plain), uchars(message.ciphertext), {}};
      std::memcpy(lane.chain, message.chain.data(), kIvBytes);
      team.owners[team.count] = &message;
      team.blocks_left[team.count++] = message.plain.size() / kIvBytes;
    }
    // They set out one after the other, then: VAES is 1.6 times as fast.
    if (narrowest_for(team.count).minds_meeting && meet_in_cache(team) &&
        team.least_left() > team.count * kStaggerBlocks) {
      for (size_t started = 1; started < team.count; ++started) {
        advance(team, started, kStaggerBlocks);
      }
    }
    while (team.count > 0) {
      advance(team, team.count, team.least_left());
      retire_finished(team);
    }
  }

  // Whether the lanes write to the same sets of a cache, of which each has room for eight lines:
  // whether they are a multiple of half a page apart.
  static bool meet_in_cache(const Team& team) {
    constexpr uintptr_t kHalfPage = 2048;
    if (team.count <= 8) return false;
    const auto place = [&](size_t lane) {
      return reinterpret_cast<uintptr_t>(team.lanes[lane].out);
    };
    return (place(1) - place(0)) % kHalfPage == 0;
  }

  // The first `count` lanes, by `num_blocks` blocks each.
  void advance(Team& team, size_t count, size_t num_blocks) const {
    const Kernel& kernel = narrowest_for(count);
    std::array<CbcLane, kMostLanes> lanes = team.lanes;
    // Lanes without a message repeat one: the same bytes are written to the same place.
    std::fill(lanes.begin() + static_cast<ptrdiff_t>(count),
              lanes.begin() + static_cast<ptrdiff_t>(kernel.num_lanes), lanes[0]);
    kernel.encrypt(*schedule_, lanes.data(), num_blocks);
    for (size_t i = 0; i < count; ++i) {
      std::memcpy(team.lanes[i].chain, lanes[i].chain, kIvBytes);
      team.lanes[i].in += num_blocks * kIvBytes;
      team.lanes[i].out += num_blocks * kIvBytes;
      team.blocks_left[i] -= num_blocks;
    }
  }

  static void retire_finished(Team& team) {
    size_t kept = 0;
    for (size_t i = 0; i < team.count; ++i) {
      if (team.blocks_left[i] == 0) {
        std::memcpy(team.owners[i]->chain.data(), team.lanes[i].chain, kIvBytes);
        continue;
      }
      team.lanes[kept] = team.lanes[i];
      team.owners[kept] = team.owners[i];
      team.blocks_left[kept++] = team.blocks_left[i];
    }
    team.count = kept;
  }

  // Of those that have enough lanes; else the first one.
  const Kernel& narrowest_for(size_t count) const {
    const Kernel* best = kernels_.front();
    for (const Kernel* kernel : kernels_) {
      if (kernel->num_lanes >= count && kernel->num_lanes < best->num_lanes) best = kernel;
    }
    return *best;
  }

  std::vector<const Kernel*> kernels_;
  KeyMemory<Schedule> schedule_;
};

// A kernel's known answer: what the last block is of a message of kAnswerBlocks blocks. Also
// whether all lanes encrypt what decrypting gives back; each has a message of its own.
// No multiple of any number of lanes, and several times the most.
inline constexpr size_t kAnswerBlocks = 3 * 64 + 3;
using Answer = std::array<uint8_t, kIvBytes>;

template <typename Schedule>
bool gives_answer(const CbcKernel<Schedule>& kernel, const Schedule& schedule,
                  const Answer& answer) {
  constexpr size_t kBytes = kAnswerBlocks * kIvBytes;
  const auto iv_byte = [](size_t i) { return answer_byte(kAnswerIvBegin + i); };
  std::vector<uint8_t> plain(kernel.num_lanes * kBytes);
  for (size_t i = 0; i < plain.size(); ++i) plain[i] = answer_byte(i);
  std::vector<uint8_t> text(plain.size());
  std::vector<CbcLane> lanes(kernel.num_lanes);
  for (size_t lane = 0; lane < lanes.size(); ++lane) {
    lanes[lane].in = plain.data() + lane * kBytes;
    lanes[lane].out = text.data() + lane * kBytes;
    for (size_t i = 0; i < kIvBytes; ++i) lanes[lane].chain[i] = iv_byte(i);
  }
  kernel.encrypt(schedule, lanes.data(), kAnswerBlocks);
  if (std::memcmp(lanes[0].chain, answer.data(), answer.size()) != 0) return false;
  for (size_t lane = 0; lane < lanes.size(); ++lane) {
    uint8_t chain[kIvBytes];
    for (size_t i = 0; i < kIvBytes; ++i) chain[i] = iv_byte(i);
    uint8_t* const at = text.data() + lane * kBytes;
    kernel.decrypt(schedule, chain, at, at, kAnswerBlocks);
    if (std::memcmp(chain, lanes[lane].chain, sizeof(chain)) != 0) return false;
  }
  return text == plain;
}

}  // namespace mindckpt
