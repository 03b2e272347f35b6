#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "base/workers.h"
#include "cipher/cipher.h"
#include "storage/source.h"

namespace mindckpt {

// One encrypted block in a file, and the plaintext it holds.
struct Frame {
  uint64_t ciphertext_begin;  // in the file
  uint64_t ciphertext_nbytes;
  uint64_t plain_begin;  // in the plaintext
  uint64_t plain_nbytes;
  Iv number;  // its place in the run, from which its IV follows
};

// What a file may say about its frames: they are numbered on from the first one, and all but the
// last one are as long as that.
struct FrameRun {
  Iv first_number;
  uint64_t count;
  uint64_t plain_nbytes;  // of all
};

// Finds that in the first frame's plaintext; nothing where it does not say.
using FindFrameRun = std::function<std::optional<FrameRun>(ByteView first_plain)>;

// The plaintext of an encrypted file. read_at decrypts what is asked for and checks nothing:
// whoever believes what it reads must open() those frames before handing anything on.
class SealedSource final : public Source {
 public:
  // Opens the first frame, to see whether the key is right. If that tells of a run as long as the
  // file, the other frames are taken to be as it says, until they are opened; else each is found by
  // the header that the one before leads to. File and cipher are borrowed, `cancel` until this
  // returns. Throws Error(kDecryption), Error(kFormat), Error(kIo), Error(kCancelled).
  SealedSource(const Source& file, const Cipher& cipher, const FindFrameRun& find_run = {},
               const CancelFlag* cancel = nullptr);

  uint64_t nbytes() const override { return nbytes_; }
  size_t window_nbytes() const override { return size_t{1} << 10; }
  void read_at(uint64_t offset, ByteSpan out) const override;

  // Whether open() notices more than a wrong end of a block.
  bool authenticates() const noexcept { return cipher_.authenticates(); }
  const std::vector<Frame>& frames() const noexcept { return frames_; }
  // The first frame whose plaintext ends after `offset`.
  size_t frame_at(uint64_t offset) const;

  // Reads neighbouring frames() at once, each into the place of its plaintext in `plain`, which has
  // exactly the length of all, and opens them there, checked: each must be the one that frames()
  // says. Safe from any thread. Throws Error(kDecryption), Error(kFormat), Error(kIo).
  void open(std::span<const Frame> frames, ByteSpan plain) const;
  // The same of a part of a frame, from `offset` in the plaintext on, as far as parts can be
  // checked, for ciphers that do not authenticate: the padding only by the part that ends with it.
  void open_part(const Frame& frame, uint64_t offset, ByteSpan plain) const;

 private:
  struct Start {  // of a frame
    uint64_t in_file;
    uint64_t in_plain;
  };
  void find_next();
  void open_first(const FindFrameRun& find_run);
  void take_run(const FrameRun& run);
  FrameHeader read_header(uint64_t at) const;
  uint64_t read_plain_nbytes(uint64_t ciphertext_begin, const FrameHeader& header) const;
  Start end_of_frames() const;
  // What a frame's header is expected to be, but for the tag.
  FrameHeader header_of(const Frame& frame) const;
  void check_header(const Frame& frame, const FrameHeader& header) const;
  uint64_t header_nbytes() const { return frame_header_nbytes(cipher_.mode()); }

  const Source& file_;
  const Cipher& cipher_;
  std::vector<Frame> frames_;
  uint64_t nbytes_ = 0;
};

}  // namespace mindckpt
