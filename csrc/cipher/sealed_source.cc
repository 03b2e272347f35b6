#include "cipher/sealed_source.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/error.h"
#include "base/memory.h"

namespace mindckpt {

namespace {

constexpr size_t kMaxTailBytes = 2 * kCipherBlockBytes;

// Runs `body`, to whose errors it adds "(block 3, at byte 1234 of the file)".
template <typename Body>
auto naming_place(size_t frame, uint64_t offset, const Body& body) {
  try {
    return body();
  } catch (const Error& error) {
    throw Error(error.kind(),
                std::string(error.what()) + " (block " + std::to_string(frame) + ", at byte " +
                    std::to_string(offset) + " of the file)",
                error.path(), error.error_number());
  }
}

[[noreturn]] void refuse_other() {
  throw Error(ErrorKind::kDecryption,
              "the file's blocks are not those that were saved, or one changed while it was read: "
              "another one is here");
}

}  // namespace

SealedSource::SealedSource(const Source& file, const Cipher& cipher, const FindFrameRun& find_run,
                           const CancelFlag* cancel)
    : file_(file), cipher_(cipher) {
  while (end_of_frames().in_file < file.nbytes()) {
    if (cancel != nullptr) check_not_cancelled(*cancel);
    find_next();
    if (frames_.size() == 1) open_first(find_run);
  }
  nbytes_ = end_of_frames().in_plain;
}

void SealedSource::find_next() {
  const Start start = end_of_frames();
  naming_place(frames_.size(), start.in_file, [&] {
    const FrameHeader header = read_header(start.in_file);
    const uint64_t begin = start.in_file + header_nbytes();
    frames_.push_back({begin, header.ciphertext_nbytes, start.in_plain,
                       read_plain_nbytes(begin, header), cipher_.number_of(header.iv)});
  });
}

void SealedSource::open_first(const FindFrameRun& find_run) {
  Buffer plain(frames_.front().plain_nbytes);
  open({&frames_.front(), 1}, plain.span());
  if (!find_run) return;
  if (const auto run = find_run(plain.span())) take_run(*run);
}

// Where the first frame tells of others than fill the file, they are left to be found, so that what
// is wrong can be said.
void SealedSource::take_run(const FrameRun& run) {
  const Frame first = frames_.front();
  const uint64_t frame_nbytes = cipher_.frame_nbytes(first.plain_nbytes);
  if (run.first_number != first.number || run.count < 2 ||
      run.count - 1 > file_.nbytes() / frame_nbytes) {
    return;
  }
  const uint64_t before_last = (run.count - 1) * first.plain_nbytes;
  if (run.plain_nbytes <= before_last || run.plain_nbytes - before_last > first.plain_nbytes) {
    return;
  }
  const uint64_t last_nbytes = run.plain_nbytes - before_last;
  if ((run.count - 1) * frame_nbytes + cipher_.frame_nbytes(last_nbytes) != file_.nbytes()) return;
  frames_.reserve(run.count);
  for (uint64_t i = 1; i < run.count; ++i) {
    const uint64_t nbytes = i + 1 < run.count ? first.plain_nbytes : last_nbytes;
    frames_.push_back({i * frame_nbytes + header_nbytes(), cipher_.ciphertext_nbytes(nbytes),
                       i * first.plain_nbytes, nbytes, cipher_.block_number(run.first_number, i)});
  }
}

SealedSource::Start SealedSource::end_of_frames() const {
  if (frames_.empty()) return {0, 0};
  const Frame& last = frames_.back();
  return {last.ciphertext_begin + last.ciphertext_nbytes, last.plain_begin + last.plain_nbytes};
}

FrameHeader SealedSource::read_header(uint64_t at) const {
  const auto require = [&](uint64_t nbytes) {
    if (file_.nbytes() - at < nbytes) {
      throw Error(ErrorKind::kFormat, "the file ends inside an encrypted block");
    }
  };
  require(header_nbytes());
  std::array<std::byte, kMaxFrameHeaderBytes> bytes;
  const ByteSpan header_bytes = ByteSpan(bytes).first(header_nbytes());
  file_.read_at(at, header_bytes);
  const FrameHeader header = decode_frame_header(header_bytes, cipher_.mode());
  require(header_nbytes() + header.ciphertext_nbytes);
  return header;
}

uint64_t SealedSource::read_plain_nbytes(uint64_t ciphertext_begin,
                                         const FrameHeader& header) const {
  std::array<std::byte, kMaxTailBytes> bytes;
  const ByteSpan tail = ByteSpan(bytes).first(cipher_.tail_nbytes(header));
  if (!tail.empty()) {
    file_.read_at(ciphertext_begin + header.ciphertext_nbytes - tail.size(), tail);
  }
  return cipher_.plain_nbytes(header, tail);
}

FrameHeader SealedSource::header_of(const Frame& frame) const {
  return {cipher_.mode(), {}, cipher_.iv_of(frame.number), frame.ciphertext_nbytes};
}

void SealedSource::check_header(const Frame& frame, const FrameHeader& header) const {
  if (header.ciphertext_nbytes != frame.ciphertext_nbytes ||
      cipher_.number_of(header.iv) != frame.number) {
    throw Error(
        ErrorKind::kDecryption,
        "the file's blocks are not those that were saved, or one changed while it was read: "
        "another one is here");
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
                 frame.ciphertext_nbytes);
    const uint64_t before = begin > 0 ? kCipherBlockBytes : 0;
    const uint64_t ciphertext_nbytes = end - begin + before;
    staging.reserve(ciphertext_nbytes + (end - begin));
    const ByteSpan ciphertext = staging.span().first(ciphertext_nbytes);
    const ByteSpan plain = staging.span().subspan(ciphertext_nbytes, end - begin);
    file_.read_at(frame.ciphertext_begin + begin - before, ciphertext);
    cipher_.peek(header_of(frame), begin, ciphertext, plain);
    std::ranges::copy(plain.subspan(into - begin, nbytes), out.begin());
    out = out.subspan(nbytes);
    offset += nbytes;
  }
}

void SealedSource::open(std::span<const Frame> frames, ByteSpan plain) const {
  uint64_t plain_nbytes = 0;
  for (const Frame& frame : frames) plain_nbytes += frame.plain_nbytes;
  MINDCKPT_CHECK(!frames.empty() && plain.size() == plain_nbytes);
  // What has no room where the plaintext goes lies together: a frame's end and the next one's
  // header.
  const size_t end_nbytes = cipher_.end_nbytes();
  std::vector<std::byte> aside(frames.size() * (header_nbytes() + end_nbytes));
  std::vector<ByteSpan> pieces;
  pieces.reserve(2 * frames.size() + 1);
  ByteSpan places = plain;
  ByteSpan around = aside;
  pieces.push_back(take_front(around, header_nbytes()));
  for (const Frame& frame : frames) {
    const ByteSpan place = take_front(places, frame.plain_nbytes);
    pieces.push_back(place.first(frame.ciphertext_nbytes - end_nbytes));
    pieces.push_back(
        take_front(around, std::min<size_t>(around.size(), end_nbytes + header_nbytes())));
  }
  file_.read_pieces_at(frames.front().ciphertext_begin - header_nbytes(), pieces);

  places = plain;
  around = aside;
  for (const Frame& frame : frames) {
    const ByteSpan place = take_front(places, frame.plain_nbytes);
    const ByteView header_bytes = take_front(around, header_nbytes());
    const ByteView end = take_front(around, end_nbytes);
    naming_place(static_cast<size_t>(&frame - frames_.data()),
                 frame.ciphertext_begin - header_nbytes(), [&] {
                   const FrameHeader header = decode_frame_header(header_bytes, cipher_.mode());
                   check_header(frame, header);
                   const ByteView body = place.first(frame.ciphertext_nbytes - end_nbytes);
                   if (cipher_.open(header, body, end, place) != frame.plain_nbytes) {
                     refuse_other();
                   }
                 });
  }
}

void SealedSource::open_part(const Frame& frame, uint64_t offset, ByteSpan plain) const {
  MINDCKPT_CHECK(!authenticates());
  const uint64_t begin = frame.ciphertext_begin - header_nbytes();
  naming_place(static_cast<size_t>(&frame - frames_.data()), begin, [&] {
    const FrameHeader header = read_header(begin);
    check_header(frame, header);
    read_at(offset, plain);
    const bool ends_with_frame = offset + plain.size() == frame.plain_begin + frame.plain_nbytes;
    if (ends_with_frame &&
        read_plain_nbytes(frame.ciphertext_begin, header) != frame.plain_nbytes) {
      refuse_other();
    }
  });
}

}  // namespace mindckpt
