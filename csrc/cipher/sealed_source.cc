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

// One read has a frame's tail and the next one's header: they lie together.
constexpr size_t kMaxTailBytes = 2 * kCipherBlockBytes;

SealedSource::SealedSource(const Source& file, const Cipher& cipher, const FindRun& run)
    : file_(file), cipher_(cipher) {
  while (end_of_frames().in_file < file.nbytes()) {
    run.check();
    const Start start = end_of_frames();
    try {
      const Frame frame = read_frame(start, read_header(start.in_file));
      if (frames_.empty()) {
        Buffer staging(frame.header.ciphertext_nbytes);
        open(frame, staging.span());
      }
      frames_.push_back(frame);
    } catch (const Error& error) {
      rethrow_with_place(error, frames_.size(), start.in_file);
    }
    // All frames but the last one usually have one length.
    if (frames_.size() == 1) find_equal_frames(run);
  }
  nbytes_ = end_of_frames().in_plain;
}

SealedSource::Start SealedSource::end_of_frames() const {
  if (frames_.empty()) return {0, 0};
  const Frame& last = frames_.back();
  return {last.ciphertext_begin + last.header.ciphertext_nbytes,
          last.plain_begin + last.plain_nbytes};
}

FrameHeader SealedSource::read_header(uint64_t at) const {
  const size_t header_nbytes = frame_header_nbytes(cipher_.mode());
  const auto require = [&](uint64_t nbytes) {
    if (file_.nbytes() - at < nbytes) {
      throw Error(ErrorKind::kFormat, "the file ends inside an encrypted block");
    }
  };
  require(header_nbytes);
  std::array<std::byte, kMaxFrameHeaderBytes> bytes;
  const ByteSpan header_bytes = ByteSpan(bytes).first(header_nbytes);
  file_.read_at(at, header_bytes);
  const FrameHeader header = decode_frame_header(header_bytes, cipher_.mode());
  require(header_nbytes + header.ciphertext_nbytes);
  return header;
}

void SealedSource::check_end(const Frame& frame) const {
  const uint64_t begin = frame.ciphertext_begin - frame_header_nbytes(cipher_.mode());
  if (read_frame({begin, frame.plain_begin}, frame.header).plain_nbytes != frame.plain_nbytes) {
    throw Error(ErrorKind::kDecryption, "a block changed while it was read");
  }
}

Frame SealedSource::read_frame(const Start& start, const FrameHeader& header) const {
  std::array<std::byte, kMaxTailBytes> bytes;
  const ByteSpan tail = ByteSpan(bytes).first(cipher_.tail_nbytes(header));
  const uint64_t begin = start.in_file + frame_header_nbytes(cipher_.mode());
  if (!tail.empty()) file_.read_at(begin + header.ciphertext_nbytes - tail.size(), tail);
  return {header, begin, start.in_plain, cipher_.plain_nbytes(header, tail),
          cipher_.number_of(header.iv)};
}

// Finds the frames behind the first one that are as long as it, on several threads, since it is
// known where they would begin. What is found is what a walk from each to the next would find: it
// ends before the first one that is otherwise in any way, which is left to the walk to speak of.
void SealedSource::find_equal_frames(const FindRun& run) {
  const Frame first = frames_.front();
  const uint64_t header_nbytes = frame_header_nbytes(cipher_.mode());
  const uint64_t tail_nbytes = cipher_.tail_nbytes(first.header);
  const uint64_t frame_nbytes = header_nbytes + first.header.ciphertext_nbytes;
  const uint64_t most = file_.nbytes() / frame_nbytes;  // the first one among them

  const auto is_found = [&](ByteView header, ByteView tail, uint64_t i) {
    const FrameHeader found = decode_frame_header(header, cipher_.mode());
    if (found.ciphertext_nbytes != first.header.ciphertext_nbytes ||
        cipher_.plain_nbytes(found, tail) != first.plain_nbytes) {
      return false;
    }
    frames_[i] = {found, i * frame_nbytes + header_nbytes, i * first.plain_nbytes,
                  first.plain_nbytes, cipher_.number_of(found.iv)};
    return true;
  };
  // Returns how many of the frames [begin, end) there are, from the first on.
  const auto find = [&](uint64_t begin, uint64_t end) -> uint64_t {
    std::array<std::byte, kMaxTailBytes + kMaxFrameHeaderBytes> bytes;
    const ByteSpan tail = ByteSpan(bytes).first(tail_nbytes);
    const ByteSpan next_header = ByteSpan(bytes).subspan(tail_nbytes, header_nbytes);
    std::array<std::byte, kMaxFrameHeaderBytes> header_bytes;
    const ByteSpan header = ByteSpan(header_bytes).first(header_nbytes);
    uint64_t i = begin;
    try {
      file_.read_at(i * frame_nbytes, header);
      for (; i < end; ++i) {
        const bool is_last = i + 1 == end;
        file_.read_at((i + 1) * frame_nbytes - tail_nbytes,
                      ByteSpan(bytes).first(tail_nbytes + (is_last ? 0 : header_nbytes)));
        if (!is_found(header, tail, i)) break;
        std::ranges::copy(next_header, header.begin());
      }
    } catch (const Error&) {
    }
    return i - begin;
  };

  constexpr uint64_t kFrames = 256;   // a thread's share
  constexpr uint64_t kShares = 1024;  // found before memory is taken for more
  const CancelFlag never{false};
  const CancelFlag& cancel = run.cancel != nullptr ? *run.cancel : never;
  while (frames_.size() < most) {
    const uint64_t begin = frames_.size();
    const uint64_t end = std::min(most, begin + kFrames * kShares);
    const uint64_t shares = (end - begin + kFrames - 1) / kFrames;
    std::vector<uint64_t> found(shares);
    frames_.resize(end);
    for_each_item(0, shares, run.num_threads, cancel, [&](uint64_t share, int) {
      const uint64_t from = begin + share * kFrames;
      found[share] = find(from, std::min(end, from + kFrames));
    });
    uint64_t whole = begin;
    for (const uint64_t count : found) {
      whole += count;
      if (count < kFrames) break;
    }
    frames_.resize(whole);
    if (whole < end) return;
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
  const ByteSpan plain = staging.first(frame.plain_nbytes);
  open_into(frame, staging, plain);
  return plain;
}

void SealedSource::open_into(const Frame& frame, ByteSpan staging, ByteSpan plain) const {
  MINDCKPT_CHECK(plain.size() == frame.plain_nbytes);
  const ByteSpan ciphertext = staging.first(frame.header.ciphertext_nbytes);
  file_.read_at(frame.ciphertext_begin, ciphertext);
  if (cipher_.open(frame.header, ciphertext, plain) != frame.plain_nbytes) {
    throw Error(ErrorKind::kDecryption, "a block changed while it was read");
  }
}

}  // namespace mindckpt
