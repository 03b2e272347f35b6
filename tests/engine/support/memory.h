#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <span>
#include <string_view>
#include <utility>

#include "storage/sink.h"
#include "storage/source.h"
#include "support/bytes.h"

namespace mindckpt::test {

// A source over bytes in memory. Reads outside of it are bugs.
class MemorySource final : public Source {
 public:
  explicit MemorySource(Bytes bytes, size_t window_nbytes = 8192)
      : bytes_(std::move(bytes)), window_nbytes_(window_nbytes) {}
  explicit MemorySource(std::string_view text) : MemorySource(bytes_of(text)) {}

  uint64_t nbytes() const override { return bytes_.size(); }
  size_t window_nbytes() const override { return window_nbytes_; }
  void read_at(uint64_t offset, ByteSpan out) const override {
    REQUIRE(offset <= bytes_.size());
    REQUIRE(out.size() <= bytes_.size() - offset);
    std::copy_n(bytes_.begin() + static_cast<ptrdiff_t>(offset), out.size(), out.begin());
  }

 private:
  Bytes bytes_;
  size_t window_nbytes_;
};

// A sink that keeps what is written, and how often each byte was.
class MemorySink final : public Sink {
 public:
  explicit MemorySink(uint64_t nbytes) : bytes_(nbytes), times_written_(nbytes) {}

  void write_at(uint64_t offset, std::span<const ByteView> pieces) override {
    const std::lock_guard lock(mutex_);
    ++writes_;
    for (const ByteView piece : pieces) {
      if (offset > bytes_.size() || piece.size() > bytes_.size() - offset) {
        outside_ = true;
        return;
      }
      std::ranges::copy(piece, bytes_.begin() + static_cast<ptrdiff_t>(offset));
      for (uint64_t i = 0; i < piece.size(); ++i) ++times_written_[offset + i];
      offset += piece.size();
    }
  }
  void sync() override { ++syncs_; }
  void commit() override {
    if (syncs_ == 1) ++commits_;
  }

  const Bytes& bytes() const { return bytes_; }
  int writes() const { return writes_; }
  int commits() const { return commits_; }  // those after one sync
  // Whether every byte was written, none twice, and nothing beyond.
  bool written_once() const {
    return !outside_ && std::ranges::all_of(times_written_, [](int times) { return times == 1; });
  }

 private:
  std::mutex mutex_;
  Bytes bytes_;
  std::vector<int> times_written_;
  bool outside_ = false;
  int writes_ = 0;
  int syncs_ = 0;
  int commits_ = 0;
};

}  // namespace mindckpt::test
