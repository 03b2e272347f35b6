#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <span>
#include <utility>

#include "support/bytes.h"

namespace mindckpt::test {

// Random numbers from a fixed seed: the same ones in every run, with every library.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  uint64_t below(uint64_t limit) { return engine_() % limit; }  // [0, limit)
  uint64_t between(uint64_t least, uint64_t most) { return least + below(most - least + 1); }
  bool one_in(uint64_t n) { return below(n) == 0; }
  uint64_t bits() { return engine_(); }

  Bytes bytes(size_t nbytes) {
    Bytes drawn(nbytes);
    for (std::byte& byte : drawn) byte = static_cast<std::byte>(engine_());
    return drawn;
  }

  template <typename T>
  T pick(std::initializer_list<T> choices) {
    return choices.begin()[below(choices.size())];
  }
  template <typename T>
  const T& pick(const std::vector<T>& choices) {
    return choices[below(choices.size())];
  }

  template <typename Range>
  void shuffle(Range& range) {
    for (size_t left = std::size(range); left > 1; --left) {
      std::swap(range[left - 1], range[below(left)]);
    }
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace mindckpt::test
