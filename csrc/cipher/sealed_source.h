#pragma once

#include <cstdint>
#include <vector>

#include "base/workers.h"
#include "cipher/cipher.h"
#include "storage/source.h"

namespace mindckpt {

// One encrypted block in a file, and the plaintext it holds.
struct Frame {
  FrameHeader header;
  uint64_t ciphertext_begin;  // in the file
  uint64_t plain_begin;       // in the plaintext
  uint64_t plain_nbytes;
  Iv number;  // what its IV says its place in the run is
};

// How the frames of a file are found.
struct FindRun {
  int num_threads = default_num_threads();
  const CancelFlag* cancel = nullptr;  // borrowed while they are

  // Throws Error(kCancelled).
  void check() const {
    if (cancel != nullptr) check_not_cancelled(*cancel);
  }
};

// The plaintext of an encrypted file. read_at decrypts what is asked for and checks nothing:
// whoever believes what it reads must open() those frames before handing anything on.
class SealedSource final : public Source {
 public:
  // Finds every frame, each by the header that the one before leads to, and opens the first one to
  // see whether the key is right. File and cipher are borrowed. Throws Error(kDecryption),
  // Error(kFormat), Error(kIo), Error(kCancelled).
  SealedSource(const Source& file, const Cipher& cipher, const FindRun& run = {});

  uint64_t nbytes() const override { return nbytes_; }
  size_t window_nbytes() const override { return size_t{1} << 10; }
  void read_at(uint64_t offset, ByteSpan out) const override;

  // Whether open() notices more than a wrong end of a block.
  bool authenticates() const noexcept { return cipher_.authenticates(); }
  const std::vector<Frame>& frames() const noexcept { return frames_; }
  // The first frame whose plaintext ends after `offset`.
  size_t frame_at(uint64_t offset) const;

  // Reads and opens one frame, checked, in `staging`, which has room for its ciphertext. Returns
  // the plaintext, at the front of `staging`. Safe from any thread.
  ByteView open(const Frame& frame, ByteSpan staging) const;
  // The same, and the plaintext goes to `plain`, which has exactly its length and may be where
  // `staging` begins.
  void open_into(const Frame& frame, ByteSpan staging, ByteSpan plain) const;

  // Reads a frame's end again: for who read its plaintext unchecked. Throws Error(kDecryption) when
  // the padding is wrong, or another one than it was.
  void check_end(const Frame& frame) const;

 private:
  struct Start {  // of a frame
    uint64_t in_file;
    uint64_t in_plain;
  };
  FrameHeader read_header(uint64_t at) const;
  Frame read_frame(const Start& start, const FrameHeader& header) const;
  void find_equal_frames(const FindRun& run);
  Start end_of_frames() const;

  const Source& file_;
  const Cipher& cipher_;
  std::vector<Frame> frames_;
  uint64_t nbytes_ = 0;
};

}  // namespace mindckpt
