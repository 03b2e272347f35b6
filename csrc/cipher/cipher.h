#pragma once

#include <cstdint>
#include <memory>

#include "base/bytes.h"
#include "cipher/frame.h"

namespace mindckpt {

// Seals and opens single blocks under one key. Immutable: safe from any thread.
class Cipher {
 public:
  // Throws Error(kInvalidArgument) for a key of the wrong length, Error(kUnavailable) when the
  // processor, OpenSSL and GmSSL's library all lack the algorithm.
  static std::unique_ptr<Cipher> create(CipherMode mode, ByteView key);
  virtual ~Cipher() = default;

  CipherMode mode() const noexcept { return mode_; }
  // Whether open() notices every change to a block.
  bool authenticates() const noexcept { return mode_ == CipherMode::kAesGcm; }
  virtual uint64_t ciphertext_nbytes(uint64_t plain_nbytes) const = 0;
  uint64_t frame_nbytes(uint64_t plain_nbytes) const {
    return frame_header_nbytes(mode_) + ciphertext_nbytes(plain_nbytes);
  }

  // A file's blocks are numbered in one run from a random base, and a block's IV follows from its
  // number. So a file's IVs differ from each other for certain, and from every other file's under
  // the key but for a chance that docs/security.md works out; and the loader, which gets the number
  // back from the IV, sees whether the run is whole.
  virtual Iv random_base() const = 0;
  virtual Iv block_number(const Iv& base, uint64_t block) const = 0;
  virtual Iv iv_of(const Iv& number) const = 0;
  virtual Iv number_of(const Iv& iv) const = 0;

  // Writes the whole frame of one block, frame_nbytes(plain.size()) bytes; they must not overlap.
  virtual void seal(ByteView plain, const Iv& iv, ByteSpan frame) const = 0;

  // Writes a run of frames, numbered on from `first_number`: `plain` cut in pieces of frame_bytes,
  // the last one shorter. frames_nbytes(plain.size(), frame_bytes) bytes; they must not overlap.
  virtual void seal_run(ByteView plain, uint64_t frame_bytes, const Iv& first_number,
                        ByteSpan frames) const;
  uint64_t frames_nbytes(uint64_t plain_nbytes, uint64_t frame_bytes) const;
  // How many frames of a run advance together, or 1. It is the same on every machine, so that files
  // are laid out the same: 0 lanes here or 64, a run of this many frames suits.
  size_t frames_at_once() const noexcept {
    if (mode_ == CipherMode::kAesGcm) return 1;
    return mode_ == CipherMode::kAesCbc ? 16 : 64;
  }

  // How long a ciphertext's end is that has no room where its plaintext goes: CBC's last cipher
  // block, which holds the padding.
  size_t end_nbytes() const noexcept { return authenticates() ? 0 : kCipherBlockBytes; }
  // Decrypts a block, whose ciphertext is `body` and then end_nbytes() of `end`, the body possibly
  // in place. Writes nothing behind the plaintext, whose length is returned: at most plain.size().
  // Throws Error(kDecryption): the tag or the padding is wrong, or the plaintext is longer than
  // that.
  virtual uint64_t open(const FrameHeader& header, ByteView body, ByteView end,
                        ByteSpan plain) const = 0;
  uint64_t open(const FrameHeader& header, ByteView ciphertext, ByteSpan plain) const {
    const size_t body_nbytes = ciphertext.size() - end_nbytes();
    return open(header, ciphertext.first(body_nbytes), ciphertext.subspan(body_nbytes), plain);
  }

  // Decrypts part of a block without checking it: plain.size() bytes at `offset`, both multiples of
  // kCipherBlockBytes (but for a GCM block's end). `ciphertext` holds that part, and when offset >
  // 0 the kCipherBlockBytes before it in front.
  virtual void peek(const FrameHeader& header, uint64_t offset, ByteView ciphertext,
                    ByteSpan plain) const = 0;

  // The plaintext's length of a block, unchecked, from the last tail_nbytes of its ciphertext: at
  // most two cipher blocks, none where the header tells.
  virtual uint64_t tail_nbytes(const FrameHeader& header) const = 0;
  virtual uint64_t plain_nbytes(const FrameHeader& header, ByteView tail) const = 0;

 protected:
  explicit Cipher(CipherMode mode) : mode_(mode) {}

 private:
  CipherMode mode_;
};

}  // namespace mindckpt
