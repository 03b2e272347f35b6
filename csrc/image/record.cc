#include "image/record.h"

namespace mindckpt {

namespace {

size_t varint_nbytes(uint64_t value) {
  size_t nbytes = 1;
  while (value >>= 7) ++nbytes;
  return nbytes;
}

// Bytes of a length-delimited field whose number is under 16: tag, length, value.
uint64_t bytes_field_nbytes(uint64_t value_nbytes) {
  return 1 + varint_nbytes(value_nbytes) + value_nbytes;
}

}  // namespace

void append_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void append_tag(std::string& out, uint32_t field_number, WireType type) {
  append_varint(out, uint64_t{field_number} << 3 | static_cast<uint64_t>(type));
}

void append_bytes(std::string& out, uint32_t field_number, std::string_view value) {
  append_tag(out, field_number, WireType::kBytes);
  append_varint(out, value.size());
  out.append(value);
}

void append_record_header(std::string& out, std::string_view name, std::string_view type,
                          std::span<const int64_t> dims, uint64_t content_nbytes) {
  uint64_t tensor_nbytes = bytes_field_nbytes(type.size()) + bytes_field_nbytes(content_nbytes);
  for (const int64_t dim : dims) tensor_nbytes += 1 + varint_nbytes(static_cast<uint64_t>(dim));
  const uint64_t value_nbytes = bytes_field_nbytes(name.size()) + bytes_field_nbytes(tensor_nbytes);

  append_tag(out, field::kValue, WireType::kBytes);
  append_varint(out, value_nbytes);
  append_bytes(out, field::kTag, name);
  append_tag(out, field::kTensor, WireType::kBytes);
  append_varint(out, tensor_nbytes);
  for (const int64_t dim : dims) {
    append_tag(out, field::kDims, WireType::kVarint);
    append_varint(out, static_cast<uint64_t>(dim));
  }
  append_bytes(out, field::kTensorType, type);
  append_tag(out, field::kContent, WireType::kBytes);
  append_varint(out, content_nbytes);
}

std::string crc_trailer(uint32_t crc) {
  std::string trailer(kCrcMark);
  trailer.append(6, '\0');
  for (int shift = 24; shift >= 0; shift -= 8) trailer.push_back(static_cast<char>(crc >> shift));
  return trailer;
}

}  // namespace mindckpt
