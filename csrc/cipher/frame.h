#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/bytes.h"
#include "cipher/iv.h"

// How MindSpore frames one encrypted block: magic, tag (GCM only), lengths, IV, ciphertext.
// The bytes are specified in docs/format.md.
namespace mindckpt {

enum class CipherMode { kAesGcm, kAesCbc, kSm4Cbc };

// "AES-GCM", "AES-CBC" or "SM4-CBC", and back. Throws Error(kInvalidArgument) for another name.
CipherMode parse_cipher_mode(std::string_view name);
std::string_view cipher_mode_name(CipherMode mode);

inline constexpr size_t kTagBytes = 16;
using Tag = std::array<std::byte, kTagBytes>;
inline constexpr size_t kCipherBlockBytes = 16;                 // of AES and SM4 alike
inline constexpr uint64_t kMaxBlockBytes = uint64_t{64} << 20;  // MindSpore refuses larger blocks

struct FrameHeader {
  CipherMode mode = CipherMode::kAesGcm;
  Tag tag{};  // GCM only
  Iv iv{};    // GCM uses the first 12 bytes only
  uint64_t ciphertext_nbytes = 0;
};

inline constexpr size_t kMaxFrameHeaderBytes = 48;
constexpr size_t frame_header_nbytes(CipherMode mode) {
  return mode == CipherMode::kAesGcm ? 48 : 32;
}

// By how much a frame is longer than a plaintext of whole cipher blocks, in every mode: GCM has a
// tag, CBC a block of padding.
inline constexpr size_t kFrameOverheadBytes = 48;

void encode_frame_header(const FrameHeader& header, ByteSpan out);

// Reads the header at the front of `bytes`, which hold a whole one of `mode`. Throws
// Error(kDecryption) when it is of another mode or none, Error(kFormat) when its lengths are off.
FrameHeader decode_frame_header(ByteView bytes, CipherMode mode);

// The mode that a file was encrypted with, from its first four bytes; nothing for a plain file.
std::optional<CipherMode> encrypted_mode(ByteView first_bytes);

}  // namespace mindckpt
