#include "engine/speed.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "base/workers.h"
#include "checksum/crc32.h"
#include "engine/save.h"

namespace mindckpt {

namespace {

// Calls body(begin, length, worker) for every piece of `nbytes`.
template <typename Body>
double seconds_of(uint64_t nbytes, uint64_t piece_nbytes, int num_threads, const Body& body) {
  const CancelFlag never{false};
  const uint64_t pieces = (nbytes + piece_nbytes - 1) / piece_nbytes;
  const auto start = Clock::now();
  for_each_item(0, pieces, num_threads, never, [&](uint64_t piece, int worker) {
    const uint64_t begin = piece * piece_nbytes;
    body(begin, std::min(piece_nbytes, nbytes - begin), worker);
  });
  return seconds_since(start);
}

}  // namespace

double cipher_seconds(const Cipher& cipher, uint64_t nbytes, int num_threads, bool opening) {
  const FrameSizes sizes = pick_frames(cipher, default_block_bytes(&cipher, num_threads));
  const uint64_t header_nbytes = frame_header_nbytes(cipher.mode());
  const uint64_t frame_nbytes = cipher.frame_nbytes(sizes.frame_bytes);
  struct Buffers {
    std::vector<std::byte> plain;
    std::vector<std::byte> frames;
    std::vector<std::byte> opened;
  };
  std::vector<Buffers> buffers(static_cast<size_t>(num_threads));
  for (Buffers& own : buffers) {
    own.plain.assign(sizes.block_bytes, std::byte{7});
    own.frames.resize(cipher.frames_nbytes(sizes.block_bytes, sizes.frame_bytes));
    own.opened.resize(frame_nbytes);
    cipher.seal_run(own.plain, sizes.frame_bytes, Iv{}, own.frames);
  }
  return seconds_of(
      nbytes, sizes.block_bytes, num_threads, [&](uint64_t, uint64_t length, int worker) {
        Buffers& own = buffers[static_cast<size_t>(worker)];
        if (!opening) {
          cipher.seal_run(ByteView(own.plain).first(length), sizes.frame_bytes, Iv{}, own.frames);
          return;
        }
        for (uint64_t at = 0; length > 0; at += frame_nbytes) {
          const ByteView frame = ByteView(own.frames).subspan(at, frame_nbytes);
          length -= std::min(length, sizes.frame_bytes);
          cipher.open(decode_frame_header(frame, cipher.mode()), frame.subspan(header_nbytes),
                      own.opened);
        }
      });
}

double crc32_seconds(ByteView data, int num_threads) {
  constexpr uint64_t kPieceBytes = uint64_t{4} << 20;
  std::atomic<uint32_t> sum{0};
  return seconds_of(data.size(), kPieceBytes, num_threads,
                    [&](uint64_t begin, uint64_t length, int) {
                      sum.fetch_xor(crc32_update(0, data.subspan(begin, length)));
                    });
}

}  // namespace mindckpt
