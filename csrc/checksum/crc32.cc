#include "checksum/crc32.h"

#include <zlib.h>

#include <array>
#include <string>

#include "base/cpu.h"
#include "base/dynamic_library.h"
#include "checksum/kernels/crc32.h"

namespace mindckpt {

namespace {

uint32_t zlib_update(uint32_t crc, const unsigned char* bytes, uint64_t nbytes) {
  return static_cast<uint32_t>(::crc32_z(crc, bytes, nbytes));
}

// The same value as zlib's for a few lengths, from nothing and from another sum.
bool equals_zlib(Crc32Update update) {
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
  Crc32Update update = nullptr;  // null where it can't be had
};

// It picks by the processor itself, and stays loaded.
Provider isal() {
  std::string why;
  const auto library = DynamicLibrary::load("libisal.so.2", DynamicLibrary::Symbols::kAtOnce, why);
  if (!library) return {};
  // uint32_t crc32_gzip_refl(uint32_t init_crc, const unsigned char* buf, uint64_t len), from
  // <isa-l/crc.h>.
  return {"isa-l", library->symbol("crc32_gzip_refl")};
}

Provider kernel() {
#if defined(__x86_64__)
  if (cpu_features().contains(CpuFeature::kAvx2 | CpuFeature::kVaes)) {
    return {"vpclmulqdq", crc32_vpclmul256};
  }
#endif
  return {};
}

// ISA-L's form for AVX-512 folds twice as much at a time as our kernel, and its others half as
// much. A processor without any feature of ours (for tests: MINDCKPT_CPU=none) leaves it to zlib.
Provider pick() {
  using Candidates = std::array<Provider (*)(), 2>;
  const bool is_wide = cpu_features().contains(CpuFeature::kAvx512);
  if (cpu_features() != CpuFeatures()) {
    for (const auto candidate : is_wide ? Candidates{isal, kernel} : Candidates{kernel, isal}) {
      const Provider provider = candidate();
      if (provider.update != nullptr && equals_zlib(provider.update)) return provider;
    }
  }
  return {"zlib", zlib_update};
}

const Provider& provider() {
  static const Provider picked = pick();
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
