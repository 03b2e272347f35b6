#include "checksum/crc32.h"

#include <zlib.h>

#include <array>
#include <string>

#include "base/cpu.h"
#include "base/dynamic_library.h"

namespace mindckpt {

namespace {

using Update = uint32_t (*)(uint32_t crc, const unsigned char* bytes, uint64_t nbytes);

uint32_t zlib_update(uint32_t crc, const unsigned char* bytes, uint64_t nbytes) {
  return static_cast<uint32_t>(::crc32_z(crc, bytes, nbytes));
}

// The same value as zlib's for a few lengths, from nothing and from another sum.
bool equals_zlib(Update update) {
  std::array<unsigned char, 1031> bytes;
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i * 89 + 7);
  for (const uint32_t crc : {0u, 0xCBF43926u}) {
    for (const size_t nbytes :
         {size_t{0}, size_t{1}, size_t{15}, size_t{64}, size_t{300}, bytes.size()}) {
      if (update(crc, bytes.data(), nbytes) != zlib_update(crc, bytes.data(), nbytes)) return false;
    }
  }
  constexpr unsigned char kDigits[] = {'1', '2', '3', '4', '5', '6', '7', '8', '9'};
  return update(0, kDigits, sizeof(kDigits)) == 0xCBF43926;  // the Rocksoft model's check value
}

struct Provider {
  std::string_view name;
  Update update;
};

// ISA-L picks by the processor itself, and stays loaded. A processor without any feature of ours
// (for tests: MINDCKPT_CPU=none) leaves it to zlib.
const Provider& provider() {
  static const Provider picked = []() -> Provider {
    std::string why;
    if (cpu_features() != CpuFeatures()) {
      const auto library =
          DynamicLibrary::load("libisal.so.2", DynamicLibrary::Symbols::kAtOnce, why);
      // uint32_t crc32_gzip_refl(uint32_t init_crc, const unsigned char* buf, uint64_t len), from
      // <isa-l/crc.h>.
      const Update update = library ? library->symbol("crc32_gzip_refl") : Update{nullptr};
      if (update != nullptr && equals_zlib(update)) return {"isa-l", update};
    }
    return {"zlib", zlib_update};
  }();
  return picked;
}

}  // namespace

uint32_t crc32_update(uint32_t crc, ByteView bytes) {
  return provider().update(crc, uchars(bytes), bytes.size());
}

std::string_view crc32_provider() { return provider().name; }

uint32_t crc32_concat(uint32_t crc_a, uint32_t crc_b, uint64_t nbytes_b) {
  return static_cast<uint32_t>(::crc32_combine64(crc_a, crc_b, static_cast<z_off64_t>(nbytes_b)));
}

}  // namespace mindckpt
