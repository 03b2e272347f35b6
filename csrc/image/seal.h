#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "cipher/iv.h"

// The seal: two records of ours inside an encrypted file's plaintext, at its very start and at its
// end, in a protobuf field that MindSpore does not know and skips. They tell the loader how many
// blocks there are, how long the plaintext is and where the run of IVs starts, so that blocks
// dropped, swapped, or spliced in from another file are noticed; MindSpore's format alone cannot.
// The bytes are specified in docs/format.md.
namespace mindckpt {

struct Seal {
  enum class Position : uint32_t { kOpening = 1, kClosing = 2 };

  Iv iv_base{};
  uint64_t block_count = 0;   // of frames
  uint64_t plain_nbytes = 0;  // of the whole file's plaintext, a CRC trailer included

  bool operator==(const Seal&) const = default;
};

inline constexpr uint64_t kSealPayloadBytes = 48;

// One seal record: field tag, length and payload.
std::string encode_seal(const Seal& seal, Seal::Position position);
inline constexpr uint64_t kSealRecordBytes = 2 + 1 + kSealPayloadBytes;

struct PlacedSeal {
  Seal seal;
  Seal::Position position;
};

// Reads the payload of field::kSeal; nothing when it is somebody else's use of that field number.
// Throws Error(kFormat) when it is ours, of a version or position that this release does not know.
std::optional<PlacedSeal> decode_seal(ByteView payload);

// The opening seal at the front of a file's plaintext, of which `plain` is the beginning; nothing
// when there is none. Throws as decode_seal does.
std::optional<Seal> find_opening_seal(ByteView plain);

}  // namespace mindckpt
