#include "cipher/frame.h"

#include <cstring>
#include <string>

#include "base/error.h"

namespace mindckpt {

namespace {

struct Mode {
  CipherMode mode;
  std::string_view name;
  uint32_t magic;
};

constexpr Mode kModes[] = {
    {CipherMode::kAesGcm, "AES-GCM", 0x7F3A5ED8},
    {CipherMode::kAesCbc, "AES-CBC", 0x7F3A5ED9},
    {CipherMode::kSm4Cbc, "SM4-CBC", 0x7F3A5EDA},
};

const Mode& find_mode(CipherMode mode) {
  for (const Mode& known : kModes) {
    if (known.mode == mode) return known;
  }
  MINDCKPT_CHECK(false);
}

void put_u32(std::byte* to, uint64_t value) {
  for (int i = 0; i < 4; ++i) to[i] = static_cast<std::byte>(value >> (8 * i));
}

uint32_t get_u32(const std::byte* from) {
  uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | std::to_integer<uint32_t>(from[i]);
  return value;
}

}  // namespace

CipherMode parse_cipher_mode(std::string_view name) {
  for (const Mode& known : kModes) {
    if (known.name == name) return known.mode;
  }
  throw Error(
      ErrorKind::kInvalidArgument,
      "the cipher mode must be 'AES-GCM', 'AES-CBC' or 'SM4-CBC', got '" + std::string(name) + "'");
}

std::string_view cipher_mode_name(CipherMode mode) { return find_mode(mode).name; }

void encode_frame_header(const FrameHeader& header, ByteSpan out) {
  MINDCKPT_CHECK(out.size() >= frame_header_nbytes(header.mode));
  std::byte* to = out.data();
  put_u32(to, find_mode(header.mode).magic);
  to += 4;
  if (header.mode == CipherMode::kAesGcm) {
    std::memcpy(to, header.tag.data(), kTagBytes);
    to += kTagBytes;
  }
  put_u32(to, 4 + kIvBytes + 4 + header.ciphertext_nbytes);  // what follows this number
  put_u32(to + 4, kIvBytes);
  std::memcpy(to + 8, header.iv.data(), kIvBytes);
  put_u32(to + 8 + kIvBytes, header.ciphertext_nbytes);
}

FrameHeader decode_frame_header(ByteView bytes, CipherMode mode) {
  MINDCKPT_CHECK(bytes.size() >= frame_header_nbytes(mode));
  FrameHeader header;
  header.mode = mode;
  const std::byte* from = bytes.data();
  if (get_u32(from) != find_mode(mode).magic) {
    const auto actual = encrypted_mode(bytes);
    throw Error(ErrorKind::kDecryption,
                actual ? "a block is encrypted with " + std::string(cipher_mode_name(*actual)) +
                             ", not with " + std::string(cipher_mode_name(mode))
                       : "no encrypted block begins here: the file is not encrypted, or damaged");
  }
  from += 4;
  if (mode == CipherMode::kAesGcm) {
    std::memcpy(header.tag.data(), from, kTagBytes);
    from += kTagBytes;
  }
  header.ciphertext_nbytes = get_u32(from + 8 + kIvBytes);
  std::memcpy(header.iv.data(), from + 8, kIvBytes);
  const uint64_t n = header.ciphertext_nbytes;
  const bool whole_blocks = mode == CipherMode::kAesGcm || n % kCipherBlockBytes == 0;
  const uint64_t most = kMaxBlockBytes + (mode == CipherMode::kAesGcm ? 0 : kCipherBlockBytes);
  if (get_u32(from + 4) != kIvBytes || get_u32(from) != 4 + kIvBytes + 4 + n || n == 0 ||
      n > most || !whole_blocks) {
    throw Error(ErrorKind::kFormat, "the lengths in an encrypted block's header are wrong");
  }
  return header;
}

std::optional<CipherMode> encrypted_mode(ByteView first_bytes) {
  if (first_bytes.size() < 4) return std::nullopt;
  for (const Mode& known : kModes) {
    if (get_u32(first_bytes.data()) == known.magic) return known.mode;
  }
  return std::nullopt;
}

}  // namespace mindckpt
