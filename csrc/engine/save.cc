#include "engine/save.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/memory.h"
#include "checksum/crc32.h"

namespace mindckpt {

namespace {

// Adds its own lifetime to a stage, and to the trace.
class StageSpan {
 public:
  StageSpan(StageTime& time, Trace* trace, const char* stage, int worker, uint64_t block)
      : time_(time),
        trace_(trace),
        stage_(stage),
        worker_(worker),
        block_(block),
        begin_(Clock::now()) {}
  ~StageSpan() {
    const auto end = Clock::now();
    time_.add(end - begin_);
    if (trace_ != nullptr) trace_->add(stage_, worker_, block_, begin_, end);
  }
  StageSpan(const StageSpan&) = delete;
  StageSpan& operator=(const StageSpan&) = delete;

 private:
  StageTime& time_;
  Trace* trace_;
  const char* stage_;
  int worker_;
  uint64_t block_;
  Clock::time_point begin_;
};

// A plain block of few pieces is written from where they lie, without a copy.
constexpr size_t kMaxPiecesInPlace = 8;

class Saver {
 public:
  Saver(FileImage& image, const SealPlan& seal, BlockFeed& feed, Sink& sink, const SaveRun& run)
      : image_(image),
        seal_(seal),
        feed_(feed),
        sink_(sink),
        run_(run),
        staging_(static_cast<size_t>(run.num_threads)),
        crcs_(image.has_crc() ? image.num_blocks() : 0) {}

  void run() {
    // The trailer is known once every record byte has been summed, so the blocks it lies in (the
    // last one, or two) wait for the others.
    const uint64_t blocks = image_.num_blocks();
    const uint64_t first_late =
        image_.has_crc() ? image_.records_nbytes() / image_.block_bytes() : blocks;
    for_each_item(0, first_late, run_.num_threads, run_.cancel, [this](uint64_t block, int worker) {
      save_block({block, worker}, take({block, worker}));
    });
    if (image_.has_crc()) save_late_blocks(first_late);
    if (blocks == 0 && run_.on_staged) run_.on_staged();
    if (run_.on_written) run_.on_written();
  }

  void report(SaveStats& stats) const {
    stats.nbytes = seal_.file_nbytes(image_);
    stats.payload_nbytes = image_.payload_nbytes();
    stats.records = image_.tensors().size();
    stats.blocks = image_.num_blocks();
    stats.num_threads = run_.num_threads;
    stats.copy_seconds = copy_.seconds();
    stats.fill_seconds = fill_.seconds();
    stats.checksum_seconds = checksum_.seconds();
    stats.seal_seconds = seal_time_.seconds();
    stats.write_seconds = write_.seconds();
  }

 private:
  // What one worker keeps from block to block.
  struct Staging {
    Buffer plain;
    Buffer frame;
  };

  // A block, and who works on it.
  struct Turn {
    uint64_t block;
    int worker;
  };

  StageSpan span(StageTime& time, const char* stage, Turn turn) const {
    return {time, run_.trace, stage, turn.worker, turn.block};
  }

  BlockFeed::Block take(Turn turn) {
    const StageSpan timed = span(copy_, "wait", turn);
    return feed_.take(turn.block);
  }

  void save_block(Turn turn, BlockFeed::Block taken) {
    const uint64_t block = turn.block;
    Staging& staging = staging_[static_cast<size_t>(turn.worker)];
    const std::vector<ByteView> plain =
        fill(taken.pieces, turn, seal_.cipher ? 1 : kMaxPiecesInPlace);
    // Else the payloads themselves are read to the end.
    const bool is_copy =
        is_in(staging.plain, plain) || std::ranges::none_of(taken.pieces, [](const auto& piece) {
          return piece.payload != nullptr;
        });
    if (is_copy) count_staged();
    if (image_.has_crc()) crcs_[block] = checksum(plain, turn);
    const uint64_t begin = seal_.block_begin(image_, block);
    if (seal_.cipher) {
      const ByteView frame = seal_block(turn, plain.front());
      give_back(taken);
      if (!is_copy) count_staged();
      write(turn, begin, {&frame, 1});
    } else {
      write(turn, begin, plain);
      give_back(taken);
      if (!is_copy) count_staged();
    }
  }

  // Its room goes to a block to come.
  void give_back(BlockFeed::Block& taken) {
    if (!taken.lease) return;
    taken.lease = {};
    feed_.refill();
  }

  static bool is_in(const Buffer& buffer, const std::vector<ByteView>& views) {
    return views.size() == 1 && views.front().data() == buffer.data();
  }

  void count_staged() {
    const uint64_t staged = staged_blocks_.fetch_add(1, std::memory_order_acq_rel) + 1;
    if (staged == image_.num_blocks() && run_.on_staged) run_.on_staged();
  }

  // The pieces where they lie when they are at most `most_pieces`, else copied together in the
  // worker's buffer.
  std::vector<ByteView> fill(const std::vector<FileImage::Piece>& pieces, Turn turn,
                             size_t most_pieces) {
    const StageSpan timed = span(fill_, "fill", turn);
    Buffer& staging = staging_[static_cast<size_t>(turn.worker)].plain;
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
    return {ByteView(staging.data(), static_cast<size_t>(to - staging.data()))};
  }

  uint32_t checksum(std::span<const ByteView> pieces, Turn turn) {
    const StageSpan timed = span(checksum_, "checksum", turn);
    uint32_t crc = 0;
    for (const ByteView piece : pieces) crc = crc32_update(crc, piece);
    return crc;
  }

  ByteView seal_block(Turn turn, ByteView plain) {
    const StageSpan timed = span(seal_time_, "seal", turn);
    Buffer& staging = staging_[static_cast<size_t>(turn.worker)].frame;
    const Cipher& cipher = *seal_.cipher;
    const uint64_t frame_bytes = image_.frame_bytes();
    const uint64_t nbytes = cipher.frames_nbytes(plain.size(), frame_bytes);
    staging.reserve(cipher.frames_nbytes(image_.block_bytes(), frame_bytes));
    cipher.seal_run(plain, frame_bytes,
                    cipher.block_number(seal_.base, image_.first_frame(turn.block)),
                    staging.span().first(nbytes));
    return staging.span().first(nbytes);
  }

  void write(Turn turn, uint64_t begin, std::span<const ByteView> pieces) {
    const StageSpan timed = span(write_, "write", turn);
    sink_.write_at(begin, pieces);
    for (const ByteView piece : pieces) {
      run_.written.fetch_add(piece.size(), std::memory_order_relaxed);
    }
  }

  // The block in which the records end, and what follows it. Its records are summed first, with the
  // finished blocks'; then the trailer's bytes, to which its pieces point, are set.
  void save_late_blocks(uint64_t first_late) {
    uint32_t crc = 0;
    for (uint64_t block = 0; block < first_late; ++block) {
      crc = crc32_concat(crc, crcs_[block], image_.block_nbytes(block));
    }
    BlockFeed::Block taken = take({first_late, 0});
    uint64_t rest = image_.records_nbytes() - image_.block_begin(first_late);
    if (rest > 0) {
      std::vector<FileImage::Piece> records;
      for (FileImage::Piece piece : taken.pieces) {
        piece.nbytes = std::min(piece.nbytes, rest);
        if (piece.payload == nullptr) piece.literal = piece.literal.first(piece.nbytes);
        if (piece.nbytes > 0) records.push_back(piece);
        rest -= piece.nbytes;
      }
      const auto views = fill(records, {first_late, 0}, kMaxPiecesInPlace);
      const uint64_t nbytes = image_.records_nbytes() - image_.block_begin(first_late);
      crc = crc32_concat(crc, checksum(views, {first_late, 0}), nbytes);
    }
    image_.set_crc(crc);
    for (uint64_t block = first_late; block < image_.num_blocks(); ++block) {
      if (block > first_late) taken = take({block, 0});
      check_not_cancelled(run_.cancel);
      save_block({block, 0}, std::move(taken));
    }
  }

  FileImage& image_;
  const SealPlan& seal_;
  BlockFeed& feed_;
  Sink& sink_;
  const SaveRun& run_;
  std::vector<Staging> staging_;  // one a worker
  std::vector<uint32_t> crcs_;    // one a block
  std::atomic<uint64_t> staged_blocks_{0};
  StageTime copy_, fill_, checksum_, seal_time_, write_;
};

// How many frames a block of so many bytes in the file, whole pages, is cut into.
uint64_t frames_of(const Cipher& cipher, uint64_t in_file) {
  constexpr uint64_t kLeast = 1024;  // a frame costs 48 bytes in the file, and time when it loads
  uint64_t frames = cipher.frames_at_once();
  while (frames > 1 && in_file / frames < kLeast) frames /= 2;
  return frames;
}

}  // namespace

uint64_t default_block_bytes(const Cipher* cipher, int num_threads) {
  constexpr uint64_t kPlain = uint64_t{4} << 20;
  // Writing 1 MiB at a time takes a third longer than 2; of 4, more leaves the caches meanwhile.
  constexpr uint64_t kSealed = uint64_t{2} << 20;
  constexpr uint64_t kStaging = uint64_t{32} << 20;  // of all threads
  const uint64_t bound = kStaging / 2 / static_cast<uint64_t>(num_threads);
  const uint64_t in_file = std::max<uint64_t>(
      kPageBytes, std::min(cipher != nullptr ? kSealed : kPlain, bound / kPageBytes * kPageBytes));
  if (cipher == nullptr) return in_file;
  return in_file - frames_of(*cipher, in_file) * kFrameOverheadBytes;
}

FrameSizes pick_frames(const Cipher& cipher, uint64_t most_block_bytes) {
  for (uint64_t frames = cipher.frames_at_once(); frames > 1; frames /= 2) {
    const uint64_t in_file =
        (most_block_bytes + frames * kFrameOverheadBytes) / kPageBytes * kPageBytes;
    if (in_file == 0 || frames_of(cipher, in_file) != frames) continue;
    const uint64_t frame_bytes = in_file / frames - kFrameOverheadBytes;
    return {frames * frame_bytes, frame_bytes};
  }
  return {most_block_bytes, most_block_bytes};
}

uint64_t SealPlan::block_begin(const FileImage& image, uint64_t block) const {
  return cipher ? block * cipher->frames_nbytes(image.block_bytes(), image.frame_bytes())
                : image.block_begin(block);
}

uint64_t SealPlan::file_nbytes(const FileImage& image) const {
  if (!cipher || image.nbytes() == 0) return image.nbytes();
  const uint64_t last = image.num_blocks() - 1;
  return block_begin(image, last) +
         cipher->frames_nbytes(image.block_nbytes(last), image.frame_bytes());
}

void save(FileImage& image, const SealPlan& seal, BlockFeed& feed, Sink& sink, const SaveRun& run,
          SaveStats& stats) {
  Saver saver(image, seal, feed, sink, run);
  saver.run();
  saver.report(stats);
  const auto start = Clock::now();
  sink.sync();
  check_not_cancelled(run.cancel);
  sink.commit();
  stats.publish_seconds = seconds_since(start);
}

}  // namespace mindckpt
