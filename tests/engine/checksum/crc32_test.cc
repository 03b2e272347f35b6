#include "checksum/crc32.h"

#include <doctest/doctest.h>
#include <zlib.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/cpu.h"
#include "support/bytes.h"
#include "support/random.h"

namespace mindckpt {
namespace {

using test::Bytes;
using test::Random;

// The definition, bit by bit: ISO 3309's polynomial, reflected.
uint32_t reference_crc32(ByteView bytes) {
  uint32_t crc = 0xFFFFFFFF;
  for (const std::byte byte : bytes) {
    crc ^= std::to_integer<uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0xEDB88320 : crc >> 1;
  }
  return ~crc;
}

TEST_CASE("CRC-32 matches published check values") {
  const auto crc = [](std::string_view text) { return crc32_update(0, as_bytes(text)); };
  CHECK(crc("") == 0);
  CHECK(crc("123456789") == 0xCBF43926);  // the Rocksoft model's check value
  CHECK(crc("a") == 0xE8B7BE43);
  CHECK(crc("The quick brown fox jumps over the lazy dog") == 0x414FA339);
  CHECK(crc32_update(0, Bytes(32, std::byte{0x00})) == 0x190A55AD);
  CHECK(crc32_update(0, Bytes(32, std::byte{0xFF})) == 0xFF6CAB0B);
}

TEST_CASE("CRC-32 equals its definition over random lengths and alignments") {
  Random random(1);
  const Bytes bytes = random.bytes(5000);
  for (int i = 0; i < 300; ++i) {
    const size_t begin = random.below(70);
    const ByteView part = ByteView(bytes).subspan(begin, random.below(bytes.size() - begin + 1));
    CHECK(crc32_update(0, part) == reference_crc32(part));
  }
}

TEST_CASE("CRC-32 equals zlib's over random lengths, alignments and starts") {
  Random random(4);
  const Bytes bytes = random.bytes(200'000);
  for (int i = 0; i < 300; ++i) {
    const size_t begin = random.below(bytes.size());
    const ByteView part = ByteView(bytes).subspan(begin, random.below(bytes.size() - begin + 1));
    const auto start = static_cast<uint32_t>(random.below(size_t{1} << 32));
    CHECK(crc32_update(start, part) == ::crc32_z(start, uchars(part), part.size()));
  }
}

TEST_CASE("CRC-32 is zlib's where the processor has no features") {
  if (cpu_features() == CpuFeatures()) CHECK(crc32_provider() == "zlib");
  MESSAGE("CRC-32 is of " << std::string(crc32_provider()));
}

TEST_CASE("CRC-32 over random splits equals that of the whole") {
  Random random(2);
  for (int i = 0; i < 200; ++i) {
    const Bytes bytes = random.bytes(random.below(3000));
    uint32_t crc = 0;
    for (ByteView rest = bytes; !rest.empty();) {
      const size_t nbytes = random.between(1, rest.size());
      crc = crc32_update(crc, rest.first(nbytes));
      rest = rest.subspan(nbytes);
    }
    CHECK(crc == reference_crc32(bytes));
  }
}

TEST_CASE("checksums concatenated equal that of the whole") {
  Random random(3);
  for (int i = 0; i < 300; ++i) {
    const Bytes bytes = random.bytes(random.below(2000));
    const size_t cut = random.below(bytes.size() + 1);
    const ByteView a = ByteView(bytes).first(cut);
    const ByteView b = ByteView(bytes).subspan(cut);
    CHECK(crc32_concat(crc32_update(0, a), crc32_update(0, b), b.size()) == reference_crc32(bytes));
  }
}

TEST_CASE("concatenating with no bytes changes nothing") {
  const uint32_t crc = crc32_update(0, as_bytes("123456789"));
  CHECK(crc32_concat(crc, 0, 0) == crc);
  CHECK(crc32_concat(0, crc, 9) == crc);
}

// So much cannot be summed in a test. But where lengths lost their upper half, concatenation would
// no longer be associative.
TEST_CASE("concatenation is associative for lengths over 4 GiB") {
  constexpr uint64_t kMiddle = (uint64_t{5} << 32) + 12345;
  constexpr uint32_t a = 0x12345678, b = 0x9ABCDEF0, c = 0x0F1E2D3C;
  for (const uint64_t last : {uint64_t{1}, uint64_t{1} << 33, (uint64_t{3} << 40) + 7}) {
    CHECK(crc32_concat(a, crc32_concat(b, c, last), kMiddle + last) ==
          crc32_concat(crc32_concat(a, b, kMiddle), c, last));
  }
  CHECK(crc32_concat(a, b, kMiddle) != crc32_concat(a, b, static_cast<uint32_t>(kMiddle)));
}

}  // namespace
}  // namespace mindckpt
