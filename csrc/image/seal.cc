#include "image/seal.h"

#include <cstring>
#include <string_view>

#include "base/error.h"
#include "image/record.h"

namespace mindckpt {

namespace {

constexpr std::string_view kMagic = "mindckpt";
constexpr uint32_t kVersion = 1;

void append_little_endian(std::string& out, uint64_t value, int nbytes) {
  for (int i = 0; i < nbytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

uint64_t little_endian(ByteView bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | std::to_integer<uint64_t>(bytes[i]);
  return value;
}

}  // namespace

std::string encode_seal(const Seal& seal, Seal::Position position) {
  std::string payload(kMagic);
  append_little_endian(payload, kVersion, 4);
  append_little_endian(payload, static_cast<uint32_t>(position), 4);
  payload.append(reinterpret_cast<const char*>(seal.iv_base.data()), kIvBytes);
  append_little_endian(payload, seal.block_count, 8);
  append_little_endian(payload, seal.plain_nbytes, 8);
  std::string record;
  append_bytes(record, field::kSeal, payload);
  MINDCKPT_CHECK(record.size() == kSealRecordBytes);
  return record;
}

std::optional<PlacedSeal> decode_seal(ByteView payload) {
  if (payload.size() < kMagic.size() ||
      std::memcmp(payload.data(), kMagic.data(), kMagic.size()) != 0) {
    return std::nullopt;
  }
  if (payload.size() != kSealPayloadBytes || little_endian(payload.subspan(8, 4)) != kVersion) {
    throw Error(ErrorKind::kFormat, "a seal record of a version that this release does not know");
  }
  PlacedSeal placed;
  const uint64_t position = little_endian(payload.subspan(12, 4));
  if (position != 1 && position != 2) {
    throw Error(ErrorKind::kFormat, "a seal record that is neither opening nor closing");
  }
  placed.position = static_cast<Seal::Position>(position);
  std::memcpy(placed.seal.iv_base.data(), payload.data() + 16, kIvBytes);
  placed.seal.block_count = little_endian(payload.subspan(32, 8));
  placed.seal.plain_nbytes = little_endian(payload.subspan(40, 8));
  return placed;
}

std::optional<Seal> find_opening_seal(ByteView plain) {
  constexpr uint64_t kBegin = kSealRecordBytes - kSealPayloadBytes;  // tag and length
  const std::string like = encode_seal({}, Seal::Position::kOpening);
  if (plain.size() < kSealRecordBytes || std::memcmp(plain.data(), like.data(), kBegin) != 0) {
    return std::nullopt;
  }
  const auto placed = decode_seal(plain.subspan(kBegin, kSealPayloadBytes));
  if (!placed || placed->position != Seal::Position::kOpening) return std::nullopt;
  return placed->seal;
}

}  // namespace mindckpt
