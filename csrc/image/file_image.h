#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "device/device.h"
#include "device/host.h"
#include "image/seal.h"

namespace mindckpt {

// One parameter to be saved: what its record says, and where its payload is. Borrowed.
struct TensorRef {
  std::string name;
  std::string type;           // as stored, such as "Float32"
  std::vector<int64_t> dims;  // as stored; a string's differ from its layout
  HostLayout layout;
  uint64_t nbytes = 0;             // of the payload
  const Device* device = nullptr;  // whose memory `layout`, then contiguous, is in; nullptr: host
};

struct ImageOptions {
  uint64_t block_bytes =
      0;             // the image is handled in blocks of this many bytes, the last one shorter
  bool crc = false;  // end with a CRC trailer
  std::optional<Iv> seal_iv_base;  // set: begin and end the records with seal records that name it
  uint64_t frame_bytes = 0;        // sealed: a frame's part of a block, of which it is a divisor;
                                   // 0: the whole block
};

// The bytes of a checkpoint file (before encryption), known before one of them moves: every header,
// every payload's place, and the length. Pure: no I/O, no device.
class FileImage {
 public:
  // A run of bytes that come from one place.
  struct Piece {
    const HostLayout* payload;  // nullptr: literal bytes
    uint64_t offset;            // where in the payload
    ByteView literal;           // the bytes, when literal
    uint64_t nbytes;
    const Device* device = nullptr;  // as TensorRef's
  };

  static FileImage plan(std::vector<TensorRef> tensors, const ImageOptions& options);

  uint64_t nbytes() const noexcept { return nbytes_; }
  // What the CRC covers: everything before the trailer.
  uint64_t records_nbytes() const noexcept { return records_nbytes_; }
  bool has_crc() const noexcept { return records_nbytes_ != nbytes_; }
  uint64_t payload_nbytes() const noexcept { return payload_nbytes_; }
  const std::vector<TensorRef>& tensors() const noexcept { return tensors_; }

  uint64_t block_bytes() const noexcept { return block_bytes_; }
  uint64_t num_blocks() const noexcept { return (nbytes_ + block_bytes_ - 1) / block_bytes_; }
  uint64_t block_begin(uint64_t block) const noexcept { return block * block_bytes_; }
  uint64_t block_nbytes(uint64_t block) const noexcept {
    return std::min(block_bytes_, nbytes_ - block_begin(block));
  }

  // A block is sealed in frames of this many bytes, the image's last one shorter.
  uint64_t frame_bytes() const noexcept { return frame_bytes_; }
  uint64_t num_frames() const noexcept { return (nbytes_ + frame_bytes_ - 1) / frame_bytes_; }
  uint64_t first_frame(uint64_t block) const noexcept { return block_begin(block) / frame_bytes_; }

  // Fills in the trailer's checksum; until then its bytes are zeros.
  void set_crc(uint32_t crc);

  // The pieces of [offset, offset + nbytes), in order.
  std::vector<Piece> pieces(uint64_t offset, uint64_t nbytes) const;

  // For snapshots: relocate(tensor) may change where the payload is, its layout and device.
  template <std::invocable<TensorRef&> Relocate>
  void relocate_payloads(Relocate&& relocate) {
    for (TensorRef& tensor : tensors_) relocate(tensor);
  }

 private:
  struct Segment {
    uint64_t begin;         // in the image; it ends where the next one begins
    int64_t tensor;         // -1: literal
    uint64_t source_begin;  // in the tensor's payload, or in literals_
  };

  std::vector<TensorRef> tensors_;
  std::vector<Segment> segments_;
  std::string literals_;
  uint64_t nbytes_ = 0;
  uint64_t records_nbytes_ = 0;
  uint64_t payload_nbytes_ = 0;
  uint64_t block_bytes_ = 0;
  uint64_t frame_bytes_ = 0;
};

}  // namespace mindckpt
