#include "image/file_image.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "image/record.h"

namespace mindckpt {

FileImage FileImage::plan(std::vector<TensorRef> tensors, const ImageOptions& options) {
  MINDCKPT_CHECK(options.block_bytes > 0);
  FileImage image;
  image.tensors_ = std::move(tensors);
  image.block_bytes_ = options.block_bytes;
  image.frame_bytes_ = options.frame_bytes > 0 ? options.frame_bytes : options.block_bytes;
  MINDCKPT_CHECK(image.block_bytes_ % image.frame_bytes_ == 0);
  image.segments_.reserve(image.tensors_.size() * 2 + 2);

  // Literal bytes that follow each other, such as a record without content and the next one's
  // header, share a segment.
  const auto place_literal = [&image](uint64_t literal_begin) {
    const uint64_t nbytes = image.literals_.size() - literal_begin;
    if (nbytes == 0) return;
    if (image.segments_.empty() || image.segments_.back().tensor >= 0) {
      image.segments_.push_back({image.nbytes_, -1, literal_begin});
    }
    image.nbytes_ += nbytes;
  };
  const auto place_payload = [&image](size_t tensor, uint64_t begin, uint64_t nbytes) {
    if (nbytes == 0) return;
    image.segments_.push_back({image.nbytes_, static_cast<int64_t>(tensor), begin});
    image.nbytes_ += nbytes;
    image.payload_nbytes_ += nbytes;
  };
  // A seal record's length is fixed, its values are known only at the end: its place is kept free.
  const auto place_seal = [&]() -> uint64_t {
    const uint64_t begin = image.literals_.size();
    if (options.seal_iv_base) image.literals_.append(kSealRecordBytes, '\0');
    place_literal(begin);
    return begin;
  };

  const uint64_t opening = place_seal();
  for (size_t i = 0; i < image.tensors_.size(); ++i) {
    const TensorRef& tensor = image.tensors_[i];
    uint64_t begin = 0;
    do {  // once for an empty tensor, too: its record has empty content
      const uint64_t nbytes = std::min(tensor.nbytes - begin, kSliceBytes);
      const uint64_t header = image.literals_.size();
      append_record_header(image.literals_, tensor.name, tensor.type, tensor.dims, nbytes);
      place_literal(header);
      place_payload(i, begin, nbytes);
      begin += nbytes;
    } while (begin < tensor.nbytes);
  }
  const uint64_t closing = place_seal();
  image.records_nbytes_ = image.nbytes_;
  if (options.crc) {
    const uint64_t trailer = image.literals_.size();
    image.literals_ += crc_trailer(0);
    place_literal(trailer);
  }

  if (options.seal_iv_base) {
    const Seal seal{*options.seal_iv_base, image.num_frames(), image.nbytes_};
    image.literals_.replace(opening, kSealRecordBytes, encode_seal(seal, Seal::Position::kOpening));
    image.literals_.replace(closing, kSealRecordBytes, encode_seal(seal, Seal::Position::kClosing));
  }
  return image;
}

void FileImage::set_crc(uint32_t crc) {
  MINDCKPT_CHECK(has_crc());
  literals_.replace(literals_.size() - kCrcTrailerBytes, kCrcTrailerBytes, crc_trailer(crc));
}

std::vector<FileImage::Piece> FileImage::pieces(uint64_t offset, uint64_t nbytes) const {
  MINDCKPT_CHECK(offset <= nbytes_ && nbytes <= nbytes_ - offset);
  std::vector<Piece> found;
  if (nbytes == 0) return found;
  auto segment = std::ranges::upper_bound(segments_, offset, {}, &Segment::begin) - 1;
  for (const uint64_t end = offset + nbytes; offset < end; ++segment) {
    const uint64_t segment_end = segment + 1 == segments_.end() ? nbytes_ : (segment + 1)->begin;
    const uint64_t in_piece = std::min(end, segment_end) - offset;
    const uint64_t source = segment->source_begin + (offset - segment->begin);
    if (segment->tensor < 0) {
      found.push_back({nullptr, 0, as_bytes(literals_).subspan(source, in_piece), in_piece});
    } else {
      const TensorRef& tensor = tensors_[static_cast<size_t>(segment->tensor)];
      found.push_back({&tensor.layout, source, {}, in_piece, tensor.device});
    }
    offset += in_piece;
  }
  return found;
}

}  // namespace mindckpt
