#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/bytes.h"

// The protobuf framing of MindSpore's checkpoint records, by hand: a payload is never copied into a
// message. The schema (proto2) and its measured facts are in docs/format.md.
namespace mindckpt {

// Wire types and field numbers of the schema.
enum class WireType : uint8_t {
  kVarint = 0,
  kFixed64 = 1,
  kBytes = 2,
  kStartGroup = 3,
  kEndGroup = 4,
  kFixed32 = 5
};

namespace field {
inline constexpr uint32_t kValue = 1;       // Checkpoint.value
inline constexpr uint32_t kTag = 1;         // Value.tag
inline constexpr uint32_t kTensor = 2;      // Value.tensor
inline constexpr uint32_t kMapTensor = 3;   // Value.maptensor
inline constexpr uint32_t kMapEntry = 1;    // MapTensorProto.tensor
inline constexpr uint32_t kDims = 1;        // TensorProto.dims
inline constexpr uint32_t kTensorType = 2;  // TensorProto.tensor_type
inline constexpr uint32_t kContent = 3;     // TensorProto.tensor_content
inline constexpr uint32_t kSeal = 1000;     // ours, unknown to MindSpore, which skips it
}  // namespace field

// MindSpore cuts a larger tensor into records of this many content bytes, the last one shorter.
inline constexpr uint64_t kSliceBytes = uint64_t{512} << 20;

void append_varint(std::string& out, uint64_t value);
void append_tag(std::string& out, uint32_t field_number, WireType type);
void append_bytes(std::string& out, uint32_t field_number, std::string_view value);

// Appends what stands before the content of one record: everything but the content's own bytes,
// which end the record.
void append_record_header(std::string& out, std::string_view name, std::string_view type,
                          std::span<const int64_t> dims, uint64_t content_nbytes);

// The CRC trailer: "crc_num" and the CRC-32 of all record bytes as 10 bytes, big-endian.
inline constexpr std::string_view kCrcMark = "crc_num";
inline constexpr uint64_t kCrcTrailerBytes = 17;
std::string crc_trailer(uint32_t crc);

}  // namespace mindckpt
