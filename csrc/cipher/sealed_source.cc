#include "cipher/sealed_source.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/error.h"
#include "base/memory.h"

namespace mindckpt {

namespace {

// "... (block 3, at byte 1234 of the file)", keeping the kind.
[[noreturn]] void rethrow_with_place(const Error& error, size_t frame, uint64_t offset) {
  throw Error(error.kind(),
              std::string(error.what()) + " (block " + std::to_string(frame) + ", at byte " +
                  std::to_string(offset) + " of the file)",
              error.path(), error.error_number());
}

}  // namespace

SealedSource::SealedSource(const Source& file, const Cipher& cipher)
    : file_(file), cipher_(cipher) {
  const size_t header_nbytes = frame_header_nbytes(cipher.mode());
  uint64_t at = 0;
  while (at < file.nbytes()) {
    try {
      const auto require = [&](uint64_t nbytes) {
        if (file.nbytes() - at < nbytes) {
          throw Error(ErrorKind::kFormat, "the file ends inside an encrypted block");
        }
      };
      require(header_nbytes);
      std::array<std::byte, kMaxFrameHeaderBytes> bytes;
      file.read_at(at, ByteSpan(bytes).first(header_nbytes));
      const FrameHeader header =
          decode_frame_header(ByteView(bytes).first(header_nbytes), cipher.mode());
      require(header_nbytes + header.ciphertext_nbytes);
      Frame frame{header, at + header_nbytes, nbytes_, 0};
      std::array<std::byte, 2 * kCipherBlockBytes> tail;
      const uint64_t tail_nbytes = cipher.tail_nbytes(header);
      const ByteSpan end = ByteSpan(tail).first(tail_nbytes);
      file.read_at(frame.ciphertext_begin + header.ciphertext_nbytes - tail_nbytes, end);
      frame.plain_nbytes = cipher.plain_nbytes(header, end);
      if (frames_.empty()) {
        Buffer staging(header.ciphertext_nbytes);
        open(frame, staging.span());
      }
      nbytes_ += frame.plain_nbytes;
      at = frame.ciphertext_begin + header.ciphertext_nbytes;
      frames_.push_back(frame);
    } catch (const Error& error) {
      rethrow_with_place(error, frames_.size(), at);
    }
  }
}

size_t SealedSource::frame_at(uint64_t offset) const {
  const auto ends_after = [](uint64_t at, const Frame& frame) {
    return at < frame.plain_begin + frame.plain_nbytes;
  };
  return static_cast<size_t>(std::upper_bound(frames_.begin(), frames_.end(), offset, ends_after) -
                             frames_.begin());
}

void SealedSource::read_at(uint64_t offset, ByteSpan out) const {
  Buffer staging;
  for (size_t i = frame_at(offset); !out.empty(); ++i) {
    MINDCKPT_CHECK(i < frames_.size());
    const Frame& frame = frames_[i];
    const uint64_t into = offset - frame.plain_begin;
    const uint64_t nbytes = std::min<uint64_t>(out.size(), frame.plain_nbytes - into);
    if (nbytes == 0) continue;  // a block of padding only
    // Whole cipher blocks, and the one before, which CBC chains from.
    const uint64_t begin = into / kCipherBlockBytes * kCipherBlockBytes;
    const uint64_t end =
        std::min((into + nbytes + kCipherBlockBytes - 1) / kCipherBlockBytes * kCipherBlockBytes,
                 frame.header.ciphertext_nbytes);
    const uint64_t before = begin > 0 ? kCipherBlockBytes : 0;
    const uint64_t ciphertext_nbytes = end - begin + before;
    staging.reserve(ciphertext_nbytes + (end - begin));
    const ByteSpan ciphertext = staging.span().first(ciphertext_nbytes);
    const ByteSpan plain = staging.span().subspan(ciphertext_nbytes, end - begin);
    file_.read_at(frame.ciphertext_begin + begin - before, ciphertext);
    cipher_.peek(frame.header, begin, ciphertext, plain);
    std::ranges::copy(plain.subspan(into - begin, nbytes), out.begin());
    out = out.subspan(nbytes);
    offset += nbytes;
  }
}

ByteView SealedSource::open(const Frame& frame, ByteSpan staging) const {
  const ByteSpan ciphertext = staging.first(frame.header.ciphertext_nbytes);
  file_.read_at(frame.ciphertext_begin, ciphertext);
  const uint64_t nbytes = cipher_.open(frame.header, ciphertext, ciphertext);
  if (nbytes != frame.plain_nbytes) {
    throw Error(ErrorKind::kDecryption, "a block changed while it was read");
  }
  return ciphertext.first(nbytes);
}

}  // namespace mindckpt
