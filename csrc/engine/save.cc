#include "engine/save.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/memory.h"
#include "checksum/crc32.h"

namespace mindckpt {

namespace {

// A plain block of few pieces is written from where they lie, without a copy.
constexpr size_t kMaxPiecesInPlace = 8;

class Saver {
 public:
  Saver(FileImage& image, const SealPlan& seal, Sink& sink, int num_threads,
        const CancelFlag& cancel, std::atomic<uint64_t>& written)
      : image_(image),
        seal_(seal),
        sink_(sink),
        num_threads_(num_threads),
        cancel_(cancel),
        written_(written),
        staging_(static_cast<size_t>(num_threads)),
        crcs_(image.has_crc() ? image.num_blocks() : 0) {}

  void run() {
    // The trailer is known once every record byte has been summed, so the blocks it lies in (the
    // last one, or two) wait for the others.
    const uint64_t blocks = image_.num_blocks();
    const uint64_t first_late =
        image_.has_crc() ? image_.records_nbytes() / image_.block_bytes() : blocks;
    for_each_item(0, first_late, num_threads_, cancel_,
                  [this](uint64_t block, int worker) { save_block(block, worker); });
    if (image_.has_crc()) finish_crc(first_late);
    for_each_item(first_late, blocks, 1, cancel_,
                  [this](uint64_t block, int worker) { save_block(block, worker); });
  }

  void report(SaveStats& stats) const {
    stats.nbytes = seal_.file_nbytes(image_);
    stats.payload_nbytes = image_.payload_nbytes();
    stats.records = image_.num_tensors();
    stats.blocks = image_.num_blocks();
    stats.num_threads = num_threads_;
    stats.fill_seconds = fill_.seconds();
    stats.checksum_seconds = checksum_.seconds();
    stats.seal_seconds = seal_time_.seconds();
    stats.write_seconds = write_.seconds();
  }

 private:
  struct Staging {
    Buffer plain;
    Buffer frame;
  };

  void save_block(uint64_t block, int worker) {
    Staging& staging = staging_[static_cast<size_t>(worker)];
    const uint64_t nbytes = image_.block_nbytes(block);
    const std::vector<ByteView> plain = fill(image_.block_begin(block), nbytes, staging.plain,
                                             seal_.cipher ? 1 : kMaxPiecesInPlace);
    if (image_.has_crc()) crcs_[block] = checksum(plain);
    const uint64_t begin = seal_.block_begin(image_, block);
    if (seal_.cipher) {
      const ByteView frame = seal_block(block, plain.front(), staging.frame);
      write(begin, {&frame, 1});
    } else {
      write(begin, plain);
    }
  }

  // The bytes of a range: where they lie when that is in at most `most_pieces` places, else copied
  // together in `staging`.
  std::vector<ByteView> fill(uint64_t begin, uint64_t nbytes, Buffer& staging, size_t most_pieces) {
    const StageTime::Span span(fill_);
    const std::vector<FileImage::Piece> pieces = image_.pieces(begin, nbytes);
    const bool in_place = pieces.size() <= most_pieces &&
                          std::ranges::all_of(pieces, [](const FileImage::Piece& piece) {
                            return piece.payload == nullptr || piece.payload->is_payload();
                          });
    if (in_place) {
      std::vector<ByteView> views;
      views.reserve(pieces.size());
      for (const FileImage::Piece& piece : pieces) {
        views.push_back(piece.payload == nullptr
                            ? piece.literal
                            : ByteView(piece.payload->data + piece.offset, piece.nbytes));
      }
      return views;
    }
    staging.reserve(image_.block_bytes());
    std::byte* to = staging.data();
    for (const FileImage::Piece& piece : pieces) {
      if (piece.payload == nullptr) {
        std::ranges::copy(piece.literal, to);
      } else {
        copy_payload(*piece.payload, piece.offset, {to, piece.nbytes});
      }
      to += piece.nbytes;
    }
    return {ByteView(staging.data(), nbytes)};
  }

  uint32_t checksum(std::span<const ByteView> pieces) {
    const StageTime::Span span(checksum_);
    uint32_t crc = 0;
    for (const ByteView piece : pieces) crc = crc32_update(crc, piece);
    return crc;
  }

  ByteView seal_block(uint64_t block, ByteView plain, Buffer& staging) {
    const StageTime::Span span(seal_time_);
    const Cipher& cipher = *seal_.cipher;
    const uint64_t nbytes = cipher.frame_nbytes(plain.size());
    staging.reserve(cipher.frame_nbytes(image_.block_bytes()));
    const Iv iv = cipher.iv_of(cipher.block_number(seal_.base, block));
    cipher.seal(plain, iv, staging.span().first(nbytes));
    return staging.span().first(nbytes);
  }

  void write(uint64_t begin, std::span<const ByteView> pieces) {
    const StageTime::Span span(write_);
    sink_.write_at(begin, pieces);
    for (const ByteView piece : pieces) {
      written_.fetch_add(piece.size(), std::memory_order_relaxed);
    }
  }

  // Combines the finished blocks' checksums with that of the records' rest, in the blocks to come.
  void finish_crc(uint64_t first_late) {
    uint32_t crc = 0;
    for (uint64_t block = 0; block < first_late; ++block) {
      crc = crc32_concat(crc, crcs_[block], image_.block_nbytes(block));
    }
    const uint64_t rest = image_.block_begin(first_late);
    const uint64_t nbytes = image_.records_nbytes() - rest;
    if (nbytes > 0) {
      const auto pieces = fill(rest, nbytes, staging_[0].plain, kMaxPiecesInPlace);
      crc = crc32_concat(crc, checksum(pieces), nbytes);
    }
    image_.set_crc(crc);
  }

  FileImage& image_;
  const SealPlan& seal_;
  Sink& sink_;
  int num_threads_;
  const CancelFlag& cancel_;
  std::atomic<uint64_t>& written_;
  std::vector<Staging> staging_;  // one a worker
  std::vector<uint32_t> crcs_;    // one a block
  StageTime fill_, checksum_, seal_time_, write_;
};

}  // namespace

uint64_t default_block_bytes(bool sealed, int num_threads) {
  constexpr uint64_t kPlain = uint64_t{4} << 20;
  constexpr uint64_t kSealed = uint64_t{1} << 20;
  constexpr uint64_t kStaging = uint64_t{32} << 20;  // of all threads
  const uint64_t bound = kStaging / 2 / static_cast<uint64_t>(num_threads);
  const uint64_t in_file = std::max<uint64_t>(
      kPageBytes, std::min(sealed ? kSealed : kPlain, bound / kPageBytes * kPageBytes));
  return sealed ? in_file - kFrameOverheadBytes : in_file;
}

uint64_t SealPlan::block_begin(const FileImage& image, uint64_t block) const {
  return cipher ? block * cipher->frame_nbytes(image.block_bytes()) : image.block_begin(block);
}

uint64_t SealPlan::file_nbytes(const FileImage& image) const {
  if (!cipher || image.nbytes() == 0) return image.nbytes();
  const uint64_t last = image.num_blocks() - 1;
  return block_begin(image, last) + cipher->frame_nbytes(image.block_nbytes(last));
}

void save(FileImage& image, const SealPlan& seal, Sink& sink, int num_threads,
          const CancelFlag& cancel, std::atomic<uint64_t>& written, SaveStats& stats) {
  Saver saver(image, seal, sink, num_threads, cancel, written);
  saver.run();
  saver.report(stats);
  const auto start = Clock::now();
  sink.sync();
  if (cancel.load(std::memory_order_relaxed)) throw Error(ErrorKind::kCancelled, "cancelled");
  sink.commit();
  stats.publish_seconds = seconds_since(start);
}

}  // namespace mindckpt
