#include "engine/checkpoint_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "base/memory.h"
#include "checksum/crc32.h"
#include "engine/uploads.h"
#include "image/record.h"
#include "image/seal.h"

namespace mindckpt {

namespace {

constexpr uint64_t kReadBytes = uint64_t{4} << 20;
// So much of a file goes to one worker, neighbours one after the other. Where the parts of two meet
// in a fresh huge page, both may clear it, and one of them in vain. The longer the parts, the fewer
// such places, and the longer ago the one behind has touched them.
constexpr uint64_t kTurnBytes = uint64_t{16} << 20;
// Of that, blocks that are read and opened together, or small pages that are made resident for what
// is read next: so much stays in a cache.
constexpr uint64_t kStepBytes = uint64_t{2} << 20;
// A block up to this size fits a worker's buffer; of larger ones, which are MindSpore's, one at a
// time is opened aside where no staging memory has room for it, so that a load takes little memory
// beyond its result.
constexpr uint64_t kLargeFrameBytes = uint64_t{4} << 20;
constexpr uint64_t kPartBytes = uint64_t{1} << 20;
// So that files of tiny blocks take no more memory beside their plaintext.
constexpr size_t kMostFramesAtOnce = 512;
// Reading over a gap costs less than another system call, up to about this size.
constexpr uint64_t kMaxGapBytes = uint64_t{64} << 10;

// A stretch of the plaintext that goes to one place in memory.
struct Destination {
  uint64_t begin;
  uint64_t nbytes;
  std::byte* data;
  const Device* device;  // nullptr: the host

  uint64_t end() const noexcept { return begin + nbytes; }
};

// A stretch of the plaintext that is handled as one: blocks of an encrypted file that follow each
// other, or a part of one where nothing is lost by that; of a plain file what suits.
struct Range {
  uint64_t begin;
  uint64_t end;
  std::span<const Frame> frames = {};  // whole, or the one that it is a part of

  uint64_t nbytes() const noexcept { return end - begin; }
  bool is_part() const noexcept {
    return frames.size() == 1 && nbytes() != frames.front().plain_nbytes;
  }
};

class Loader {
 public:
  Loader(const FileSource& file, const SealedSource* sealed, const Index& index,
         std::span<const Target> targets, bool check_crc)
      : file_(file), sealed_(sealed), index_(index), check_crc_(check_crc) {
    for (const Target& target : targets) {
      std::byte* to = target.data;
      for (const Slice& slice : index.entries[target.entry].slices) {
        if (slice.nbytes > 0)
          destinations_.push_back({slice.begin, slice.nbytes, to, target.device});
        to += slice.nbytes;
      }
      if (target.device != nullptr) devices_.push_back(target.device);
    }
    MINDCKPT_CHECK(std::ranges::is_sorted(destinations_, {}, &Destination::begin));
  }

  void run(const LoadRun& run) {
    MINDCKPT_CHECK(!check_crc_ || index_.crc);
    if (!devices_.empty()) {
      MINDCKPT_CHECK(run.staging != nullptr);
      uploads_ = std::make_unique<Uploads>(devices_, *run.staging, run.producers, run.num_threads);
    }
    const std::vector<Range> ranges =
        sealed_ != nullptr ? frames_to_open(run.num_threads) : ranges_to_read();
    crcs_.resize(check_crc_ ? ranges.size() : 0);
    std::vector<Buffer> buffers(static_cast<size_t>(run.num_threads));
    const bool small_pages = !has_huge_pages();
    const std::vector<size_t> turns =
        turns_of(ranges, small_pages ? kStepBytes : kTurnBytes, run.num_threads);
    for_each_item(
        0, turns.size() - 1, run.num_threads, run.cancel,
        [&](uint64_t turn, int worker) {
          if (small_pages)
            make_places_resident({ranges[turns[turn]].begin, ranges[turns[turn + 1] - 1].end});
          for (size_t item = turns[turn]; item < turns[turn + 1]; ++item) {
            check_not_cancelled(run.cancel);
            load_range(ranges[item], item, worker, buffers[static_cast<size_t>(worker)],
                       run.cancel);
          }
        },
        [&](int worker) {
          if (uploads_) uploads_->finish(worker);
        });
    if (check_crc_) compare_crc(ranges);
  }

 private:
  void load_range(const Range& range, size_t item, int worker, Buffer& buffer,
                  const CancelFlag& cancel) {
    if (const ByteSpan place = host_place(range); !place.empty()) {
      open_frames(range, place);
      if (check_crc_) crcs_[item] = crc32_update(0, place);
      return;
    }
    const uint64_t nbytes = range.nbytes();
    // A block of padding only holds nothing to upload.
    const bool in_staging = uploads_ != nullptr && nbytes > 0 && nbytes <= uploads_->most_nbytes();
    std::unique_lock<std::mutex> turn;
    ByteSpan staging;
    if (in_staging) {
      staging = uploads_->begin(worker, nbytes, cancel);
    } else if (nbytes > kLargeFrameBytes) {
      if (uploads_) uploads_->finish(worker);  // who waits for its turn holds no room
      turn = std::unique_lock(large_mutex_);
      large_.reserve(nbytes);
      staging = large_.span();
    } else {
      buffer.reserve(nbytes);
      staging = buffer.span();
    }
    const ByteView bytes =
        sealed_ != nullptr ? open_range(range, item, staging) : read_range(range, item, staging);
    if (uploads_ == nullptr || nbytes == 0) return;
    for_each_destination(range,
                         [&](uint64_t begin, uint64_t part, std::byte* to, const Device* device) {
                           if (device == nullptr) return;
                           const ByteView from = bytes.subspan(begin - range.begin, part);
                           if (in_staging) {
                             uploads_->copy(worker, *device, to, from);
                           } else {
                             uploads_->copy_through(worker, *device, to, from, cancel);
                           }
                         });
    if (in_staging) uploads_->submit(worker);
  }

  // The host memory that the range's content goes to; neighbours at once.
  void make_places_resident(const Range& range) const {
    ByteSpan places;
    for_each_destination(range,
                         [&](uint64_t, uint64_t nbytes, std::byte* to, const Device* device) {
                           if (device != nullptr) return;
                           std::byte* const end = places.data() + places.size();
                           if (!places.empty() && to >= end && to < end + kMapBytes) {
                             places = {places.data(), to + nbytes};
                             return;
                           }
                           make_resident(places);
                           places = {to, nbytes};
                         });
    make_resident(places);
  }

  // `most`, or less where there is too little for every worker to get `shares` of it.
  static uint64_t fair_share(uint64_t most, uint64_t all_nbytes, int num_threads, uint64_t shares) {
    return std::min(most, all_nbytes / (shares * static_cast<uint64_t>(num_threads)));
  }

  // Where what a worker takes at once, `most` bytes or less, begins, and the end.
  static std::vector<size_t> turns_of(const std::vector<Range>& ranges, uint64_t most,
                                      int num_threads) {
    uint64_t all_nbytes = 0;
    for (const Range& range : ranges) all_nbytes += range.nbytes();
    // One worker may be much slower than the others, and all wait for its last turn.
    most = fair_share(most, all_nbytes, num_threads, 16);
    std::vector<size_t> turns;
    uint64_t end = 0;
    for (size_t i = 0; i < ranges.size(); ++i) {
      if (turns.empty() || ranges[i].end > end) {
        turns.push_back(i);
        end = ranges[i].begin + most;
      }
    }
    turns.push_back(ranges.size());
    return turns;
  }

  // A plain file: everything when it is summed, else the wanted content, neighbours together.
  std::vector<Range> ranges_to_read() const {
    std::vector<Range> ranges;
    const uint64_t most = uploads_ ? std::min(kReadBytes, uploads_->most_nbytes()) : kReadBytes;
    const auto add = [&](uint64_t begin, uint64_t end) {
      for (; begin < end; begin += most) ranges.push_back({begin, std::min(begin + most, end)});
    };
    if (check_crc_) {
      add(0, index_.records_nbytes);
      return ranges;
    }
    for (size_t i = 0; i < destinations_.size();) {
      const uint64_t begin = destinations_[i].begin;
      uint64_t end = destinations_[i].end();
      for (++i; i < destinations_.size() && destinations_[i].begin - end <= kMaxGapBytes; ++i) {
        end = destinations_[i].end();
      }
      add(begin, end);
    }
    return ranges;
  }

  // An encrypted file: the blocks that hold wanted content or record headers. All, when they are
  // summed; and when no seal record vouches for the others, on whose lengths every place depends.
  // Those that follow each other into one tensor in host memory, or not so, are read together.
  std::vector<Range> frames_to_open(int num_threads) const {
    const bool all = check_crc_ || !index_.opening_seal;
    uint64_t nbytes = all ? sealed_->nbytes() : 0;
    if (!all) {
      for (const Destination& to : destinations_) nbytes += to.nbytes;
    }
    uint64_t most = fair_share(kStepBytes, nbytes, num_threads, 4);
    if (uploads_) most = std::min(most, uploads_->most_nbytes());
    std::vector<Range> ranges;
    const Destination* last_place = nullptr;  // where the last range goes in place
    uint64_t step_end = 0;                    // of what may be read together
    auto header = index_.headers.begin();
    auto destination = destinations_.begin();
    const auto add = [&](const Frame& frame, uint64_t begin, uint64_t end) {
      while (header != index_.headers.end() && header->begin + header->nbytes <= begin) ++header;
      while (destination != destinations_.end() && destination->end() <= begin) ++destination;
      const bool has_header = header != index_.headers.end() && header->begin < end;
      const bool is_wanted = destination != destinations_.end() && destination->begin < end;
      if (!all && !has_header && !is_wanted) return;
      const Destination* const place =
          is_wanted && takes_in_place(*destination, begin, end) ? &*destination : nullptr;
      const Range range{begin, end, {&frame, 1}};
      const bool begins_step = end > step_end;
      if (begins_step) step_end = begin + most;
      if (!begins_step && !ranges.empty() && place == last_place &&
          can_join(ranges.back(), range)) {
        Range& last = ranges.back();
        last.end = end;
        last.frames = {last.frames.data(), last.frames.size() + 1};
        return;
      }
      ranges.push_back(range);
      last_place = place;
    };
    for (const Frame& frame : sealed_->frames()) {
      uint64_t begin = frame.plain_begin;
      const uint64_t end = begin + frame.plain_nbytes;
      // Where a block's parts vouch for each other no more than blocks do, they are read alone.
      const bool in_parts = !sealed_->authenticates() && frame.plain_nbytes > kLargeFrameBytes;
      for (; in_parts && end - begin > kPartBytes; begin += kPartBytes) {
        add(frame, begin, begin + kPartBytes);
      }
      add(frame, begin, end);
    }
    return ranges;
  }

  static bool can_join(const Range& range, const Range& next) {
    return !range.is_part() && !next.is_part() &&
           range.frames.data() + range.frames.size() == next.frames.data() &&
           range.frames.size() < kMostFramesAtOnce;
  }

  static bool takes_in_place(const Destination& to, uint64_t begin, uint64_t end) {
    return to.device == nullptr && to.begin <= begin && end <= to.end();
  }

  // Where an encrypted range goes as it is: all of it into one tensor in host memory.
  ByteSpan host_place(const Range& range) const {
    if (range.frames.empty() || range.nbytes() == 0) return {};
    const auto to = std::ranges::upper_bound(destinations_, range.begin, {}, &Destination::end);
    if (to == destinations_.end() || !takes_in_place(*to, range.begin, range.end)) return {};
    return {to->data + (range.begin - to->begin), range.nbytes()};
  }

  void open_frames(const Range& range, ByteSpan plain) const {
    if (range.is_part()) {
      sealed_->open_part(range.frames.front(), range.begin, plain);
    } else {
      sealed_->open(range.frames, plain);
    }
  }

  // Returns the range's plaintext, in `staging`.
  ByteView open_range(const Range& range, size_t item, ByteSpan staging) {
    const ByteSpan plain = staging.first(range.nbytes());
    open_frames(range, plain);
    if (plain.empty()) return plain;  // blocks of padding only
    for_each_destination(range,
                         [&](uint64_t begin, uint64_t nbytes, std::byte* to, const Device* device) {
                           if (device == nullptr)
                             std::memcpy(to, plain.data() + (begin - range.begin), nbytes);
                         });
    compare_headers(range, plain);
    if (check_crc_) {
      // The trailer itself, at the end, is not summed.
      const uint64_t end = std::min(range.end, index_.records_nbytes);
      if (range.begin < end) crcs_[item] = crc32_update(0, plain.first(end - range.begin));
    }
    return plain;
  }

  // Content in host memory goes straight to its place, the rest to `staging`, which is returned.
  ByteView read_range(const Range& range, size_t item, ByteSpan staging) {
    std::vector<ByteSpan> pieces;
    uint64_t at = range.begin;
    const auto read_aside = [&](uint64_t end) {
      // Each at its own place: headers are compared, and content is uploaded, from there.
      if (end > at) pieces.push_back(staging.subspan(at - range.begin, end - at));
    };
    for_each_destination(range,
                         [&](uint64_t begin, uint64_t nbytes, std::byte* to, const Device* device) {
                           if (device != nullptr) return;
                           read_aside(begin);
                           pieces.push_back({to, nbytes});
                           at = begin + nbytes;
                         });
    read_aside(range.end);
    file_.read_pieces_at(range.begin, pieces);
    if (check_crc_) {
      uint32_t crc = 0;
      for (const ByteSpan piece : pieces) crc = crc32_update(crc, piece);
      crcs_[item] = crc;
      compare_headers(range, staging);
    }
    return staging;
  }

  // body(begin, nbytes, data, device) for every part of a destination that lies in the range, in
  // order.
  template <typename Body>
  void for_each_destination(const Range& range, const Body& body) const {
    auto destination = std::ranges::upper_bound(destinations_, range.begin, {}, &Destination::end);
    for (; destination != destinations_.end() && destination->begin < range.end; ++destination) {
      const uint64_t begin = std::max(destination->begin, range.begin);
      const uint64_t end = std::min(destination->end(), range.end);
      body(begin, end - begin, destination->data + (begin - destination->begin),
           destination->device);
    }
  }

  // The index was made from bytes that nothing vouched for yet. Now something does: were they
  // these?
  void compare_headers(const Range& range, ByteView bytes) const {
    const auto header_end = [](const Index::Header& header) {
      return header.begin + header.nbytes;
    };
    auto header = std::ranges::upper_bound(index_.headers, range.begin, {}, header_end);
    for (; header != index_.headers.end() && header->begin < range.end; ++header) {
      const uint64_t begin = std::max(header->begin, range.begin);
      const uint64_t end = std::min(header_end(*header), range.end);
      const char* believed = index_.header_bytes.data() + header->literal + (begin - header->begin);
      if (std::memcmp(bytes.data() + (begin - range.begin), believed, end - begin) != 0) {
        throw Error(ErrorKind::kFormat, "the file changed while it was read");
      }
    }
  }

  void compare_crc(const std::vector<Range>& ranges) const {
    uint32_t crc = 0;
    for (size_t i = 0; i < ranges.size(); ++i) {
      const uint64_t end = std::min(ranges[i].end, index_.records_nbytes);
      if (ranges[i].begin < end) crc = crc32_concat(crc, crcs_[i], end - ranges[i].begin);
    }
    if (crc != *index_.crc) {
      throw Error(ErrorKind::kChecksum,
                  "the CRC of the records does not match: the file is damaged");
    }
  }

  const FileSource& file_;
  const SealedSource* sealed_;
  const Index& index_;
  bool check_crc_;
  std::vector<Destination> destinations_;
  std::vector<const Device*> devices_;  // of the destinations; may repeat
  std::unique_ptr<Uploads> uploads_;    // nullptr: there are none
  std::vector<uint32_t> crcs_;          // one a range
  std::mutex large_mutex_;
  Buffer large_;  // for a block that is too large for a worker's buffer
};

// The opening seal at the front of a plaintext; of one that nobody can read the index speaks.
std::optional<Seal> opening_seal_of(ByteView plain) {
  try {
    return find_opening_seal(plain);
  } catch (const Error&) {
    return std::nullopt;
  }
}

// What it says of the blocks.
std::optional<FrameRun> find_run(ByteView first_plain) {
  const auto seal = opening_seal_of(first_plain);
  if (!seal) return std::nullopt;
  return FrameRun{seal->iv_base, seal->block_count, seal->plain_nbytes};
}

// The same of a file whose first block may be shorter than that record.
std::optional<Seal> read_opening_seal(const SealedSource& sealed) {
  std::array<std::byte, kSealRecordBytes> plain;
  if (sealed.nbytes() < plain.size()) return std::nullopt;
  sealed.read_at(0, plain);
  return opening_seal_of(plain);
}

// Whether a closing seal stands where it does in a file of ours, whatever stands before it.
bool ends_with_closing_seal(const SealedSource& sealed) {
  for (const uint64_t behind : {uint64_t{0}, kCrcTrailerBytes}) {
    std::array<std::byte, kSealPayloadBytes> payload;
    if (sealed.nbytes() < payload.size() + behind) return false;
    sealed.read_at(sealed.nbytes() - behind - payload.size(), payload);
    try {
      const auto placed = decode_seal(payload);
      if (placed && placed->position == Seal::Position::kClosing) return true;
    } catch (const Error&) {
      // Of another version, or a parameter's bytes.
    }
  }
  return false;
}

[[noreturn]] void refuse_blocks(const char* why) {
  throw Error(ErrorKind::kDecryption,
              std::string("the file's blocks are not those that were saved: ") + why);
}

// CBC does not authenticate. Whoever sees how a changed file fails, whether by its padding or by
// what follows from it, can decrypt a file by trying (a padding oracle), so what depends on
// decrypted bytes fails with one message that names no place. Errors with a path are the file
// system's.
template <typename Body>
void failing_alike(const Cipher* cipher, const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    const bool tells = error.kind() == ErrorKind::kDecryption ||
                       error.kind() == ErrorKind::kFormat || error.kind() == ErrorKind::kChecksum;
    if (cipher == nullptr || cipher->authenticates() || !tells || !error.path().empty()) throw;
    throw Error(ErrorKind::kDecryption,
                "the file does not decrypt to a whole checkpoint: the key is wrong, or the file is "
                "damaged, cut short, or changed while it was read");
  }
}

}  // namespace

CheckpointFile::CheckpointFile(const std::string& path, std::shared_ptr<const Cipher> cipher,
                               const CancelFlag* cancel)
    : cipher_(std::move(cipher)), file_(path) {
  try {
    std::array<std::byte, 4> first{};
    file_.read_at(0, ByteSpan(first).first(std::min<uint64_t>(first.size(), file_.nbytes())));
    const auto mode = encrypted_mode(first);
    if (cipher_ == nullptr) {
      if (mode) {
        throw Error(ErrorKind::kDecryption, "the file is encrypted with " +
                                                std::string(cipher_mode_name(*mode)) +
                                                ": a key is needed");
      }
      index_ = Index::read(file_, cancel);
    } else if (mode && *mode != cipher_->mode()) {
      throw Error(ErrorKind::kDecryption, "the file is encrypted with " +
                                              std::string(cipher_mode_name(*mode)) + ", not with " +
                                              std::string(cipher_mode_name(cipher_->mode())));
    } else if (!mode && file_.nbytes() >= first.size()) {
      throw Error(ErrorKind::kDecryption, "the file is not encrypted, or damaged at its start");
    } else {
      failing_alike(cipher_.get(), [&] { read_sealed_index(cancel); });
    }
  } catch (const Error& error) {
    if (!error.path().empty()) throw;
    throw Error(error.kind(), error.what(), path);
  }
}

void CheckpointFile::read_sealed_index(const CancelFlag* cancel) {
  sealed_ = std::make_unique<SealedSource>(file_, *cipher_, find_run, cancel);
  // Blocks that are known to be ours are looked at as blocks before any text in them is parsed.
  const std::optional<Seal> opening = read_opening_seal(*sealed_);
  if (opening) {
    check_run(*opening);
  } else {
    check_no_run();
  }
  try {
    index_ = Index::read(*sealed_, cancel);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kFormat || !error.path().empty()) throw;
    if (!cipher_->authenticates()) throw;  // which fails alike
    // The index is made of bytes that nothing has vouched for, so what it says is wrong may be a
    // stranger's words, or a parameter's bytes. When a block does not open, that is what is wrong.
    Buffer plain;
    for (const Frame& frame : sealed_->frames()) {
      if (cancel != nullptr) check_not_cancelled(*cancel);
      plain.reserve(frame.plain_nbytes);
      sealed_->open({&frame, 1}, plain.span().first(frame.plain_nbytes));
    }
    if (!opening && ends_with_closing_seal(*sealed_)) refuse_blocks("the first one is gone");
    throw;
  }
  // Written otherwise than we write it, it is not found before.
  if (index_.opening_seal && !opening) check_run(index_.opening_seal->seal);
  if (index_.opening_seal && !index_.closing_seal) refuse_blocks("the last one is gone");
  if (!index_.opening_seal && index_.closing_seal) refuse_blocks("the first one is gone");
  if (index_.opening_seal && index_.opening_seal->seal != index_.closing_seal->seal) {
    refuse_blocks("the first and the last belong to different files");
  }
  // A few bytes of nonsense pass for fields that are skipped: where nothing else is there, and
  // nobody vouches for it, they must fail as other nonsense does.
  if (!cipher_->authenticates() && !index_.opening_seal && index_.entries.empty()) {
    throw Error(ErrorKind::kFormat, "no records");
  }
}

void CheckpointFile::check_run(const Seal& seal) const {
  const std::vector<Frame>& frames = sealed_->frames();
  if (seal.block_count != frames.size()) refuse_blocks("their number is another");
  if (seal.plain_nbytes != sealed_->nbytes()) refuse_blocks("their length is another");
  for (size_t i = 0; i < frames.size(); ++i) {
    if (frames[i].number != cipher_->block_number(seal.iv_base, i)) {
      refuse_blocks("their order is another");
    }
    // A block that is not opened could lend some of its length to another one, and shift all
    // between.
    const bool last = i + 1 == frames.size();
    if (!last && frames[i].plain_nbytes != frames[0].plain_nbytes) {
      refuse_blocks("a length is another");
    }
  }
}

// MindSpore's IVs are random, and no two are near each other. Numbers that are, are what is left of
// a sealed file.
void CheckpointFile::check_no_run() const {
  constexpr uint64_t kNear = uint64_t{1} << 32;
  std::vector<Iv> numbers;
  numbers.reserve(sealed_->frames().size());
  for (const Frame& frame : sealed_->frames()) numbers.push_back(frame.number);
  std::ranges::sort(numbers);  // as big-endian numbers
  for (size_t i = 1; i < numbers.size(); ++i) {
    if (numbers[i] < cipher_->block_number(numbers[i - 1], kNear)) {
      throw Error(ErrorKind::kDecryption,
                  "blocks of a sealed file, but the first one, which tells of them, is gone");
    }
  }
}

void CheckpointFile::read(std::span<const Target> targets, bool check_crc,
                          const LoadRun& run) const {
  if (check_crc && !has_crc()) {
    throw Error(ErrorKind::kChecksum,
                "crc_check: the file has no CRC to check: it was saved without, or cut off",
                file_.path());
  }
  try {
    failing_alike(cipher_.get(),
                  [&] { Loader(file_, sealed_.get(), index_, targets, check_crc).run(run); });
  } catch (const Error& error) {
    if (!error.path().empty()) throw;
    throw Error(error.kind(), error.what(), file_.path());
  }
}

}  // namespace mindckpt
