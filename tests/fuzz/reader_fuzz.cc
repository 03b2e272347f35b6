// A fuzz target for the reader (libFuzzer). Any file either loads, the same however it is read, or
// is refused with one of the documented errors; the sanitizers look for the rest. `make fuzz`.
//
// An input is four bytes, then what becomes the file:
//
//   kind     0 plain; 1-4 encrypted as it is; 5-8 a plaintext that is sealed here first, so that
//            what is authentic and hostile gets behind the tags: by AES-GCM with 16 and 32 bytes of
//            key, AES-CBC, SM4-CBC
//   cut      of 5-8: how many bytes of plaintext a block has (1 to 256)
//   flags    bit 0, of 5-8: the blocks' numbers are at random, and not numbered on, as ours are;
//            bit 1: a partial load has two threads
//   chosen   bits of the entries that a partial load takes
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "cipher/cipher.h"
#include "engine/checkpoint_file.h"
#include "image/seal.h"
#include "storage/mapping.h"

namespace mindckpt {
namespace {

using Bytes = std::vector<std::byte>;
using Contents = std::vector<Bytes>;

constexpr size_t kNumCiphers = 4;
constexpr size_t kOptionBytes = 4;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "reader_fuzz: not so: %s\n", what);
  std::abort();
}

// The keys of the golden files: byte i of n is 7 i + n.
Bytes golden_key(size_t nbytes) {
  Bytes key(nbytes);
  for (size_t i = 0; i < nbytes; ++i) key[i] = static_cast<std::byte>(7 * i + nbytes);
  return key;
}

// nullptr where there is no such cipher on this machine.
std::shared_ptr<const Cipher> make_cipher(size_t which) {
  constexpr std::array<CipherMode, kNumCiphers> kModes = {CipherMode::kAesGcm, CipherMode::kAesGcm,
                                                          CipherMode::kAesCbc, CipherMode::kSm4Cbc};
  constexpr std::array<size_t, kNumCiphers> kKeyBytes = {16, 32, 16, 16};
  try {
    return Cipher::create(kModes[which], golden_key(kKeyBytes[which]));
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::kUnavailable, "a cipher is there, or not available");
    return nullptr;
  }
}

const std::shared_ptr<const Cipher>& cipher_of(size_t which) {
  static const std::array<std::shared_ptr<const Cipher>, kNumCiphers> ciphers = {
      make_cipher(0), make_cipher(1), make_cipher(2), make_cipher(3)};
  return ciphers[which];
}

// A file in memory, which is opened by its path like any other.
class MemoryFile {
 public:
  MemoryFile() : fd_(::memfd_create("fuzzed", MFD_CLOEXEC)) {
    require(fd_ >= 0, "there is memory for a file");
    path_ = "/proc/self/fd/" + std::to_string(fd_);
  }
  void write(ByteView bytes) const {
    require(::ftruncate(fd_, 0) == 0, "a file can be emptied");
    require(::pwrite(fd_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()),
            "a file can be written");
  }
  const std::string& path() const { return path_; }

 private:
  int fd_;  // stays open to the end
  std::string path_;
};

struct Options {
  size_t kind;
  size_t cut;
  bool numbered_on;
  int num_threads;
  uint8_t chosen;
};

// Seals a plaintext in blocks. An opening seal at its front gets the numbers that are right for it
// where the blocks are numbered on, so that a change of anything else is seen behind it.
Bytes seal(const Cipher& cipher, Bytes plain, const Options& options) {
  const Iv base{};
  const size_t count = std::max<size_t>(1, (plain.size() + options.cut - 1) / options.cut);
  if (options.numbered_on) {
    const Seal seal{base, count, plain.size()};
    const auto overwrite = [&](Seal::Position position, size_t at) {
      const std::string record = encode_seal(seal, position);
      // Only where one stands: who it is for is left as it is found.
      const size_t head = 3 + 8;  // tag, length, magic
      if (at + record.size() > plain.size()) return;
      if (std::memcmp(plain.data() + at, record.data(), head) != 0) return;
      std::memcpy(plain.data() + at + head + 8, record.data() + head + 8, record.size() - head - 8);
    };
    overwrite(Seal::Position::kOpening, 0);
    for (const size_t behind : {size_t{0}, size_t{17}}) {
      if (plain.size() >= kSealRecordBytes + behind) {
        overwrite(Seal::Position::kClosing, plain.size() - kSealRecordBytes - behind);
      }
    }
  }
  Bytes file;
  for (size_t i = 0; i < count; ++i) {
    const size_t begin = std::min(plain.size(), i * options.cut);
    const ByteView part =
        ByteView(plain).subspan(begin, std::min(options.cut, plain.size() - begin));
    if (part.empty() && cipher.authenticates()) break;
    Iv number = cipher.block_number(base, i);
    if (!options.numbered_on) number[0] = static_cast<std::byte>(37 * i + 1);
    const size_t at = file.size();
    file.resize(at + cipher.frame_nbytes(part.size()));
    cipher.seal(part, cipher.iv_of(number), ByteSpan(file).subspan(at));
  }
  return file;
}

Contents read(const CheckpointFile& file, const std::vector<size_t>& entries, bool check_crc,
              int num_threads) {
  Contents contents;
  for (const size_t entry : entries) contents.emplace_back(file.entries()[entry].nbytes);
  std::vector<Target> targets;
  for (size_t i = 0; i < entries.size(); ++i) {
    targets.push_back({entries[i], contents[i].data(), nullptr});
  }
  const CancelFlag never{false};
  file.read(targets, check_crc, {num_threads, never, nullptr, {}});
  return contents;
}

// What `body` returns; nothing where it is refused, in a documented way.
template <typename Body>
auto unless_refused(const Body& body) -> std::optional<decltype(body())> {
  try {
    return body();
  } catch (const Error& error) {
    const ErrorKind kind = error.kind();
    require(kind == ErrorKind::kFormat || kind == ErrorKind::kDecryption ||
                kind == ErrorKind::kChecksum,
            error.what());
    require(!error.path().empty(), "an error names the file");
    return std::nullopt;
  }
}

void check_mapped(const CheckpointFile& file, const Contents& contents) {
  if (file.is_encrypted() || file.file().nbytes() == 0) return;
  const Mapping mapping(file.file().fd(), file.file().nbytes(), file.file().path().c_str());
  for (size_t i = 0; i < contents.size(); ++i) {
    const std::byte* at = contents[i].data();
    for (const Slice& slice : file.entries()[i].slices) {
      require(std::equal(at, at + slice.nbytes, mapping.data() + slice.begin),
              "what is read is what a mapping shows");
      at += slice.nbytes;
    }
  }
}

void load(const std::string& path, const std::shared_ptr<const Cipher>& cipher,
          const Options& options) {
  const auto file = unless_refused([&] { return std::make_unique<CheckpointFile>(path, cipher); });
  if (!file) return;
  const CheckpointFile& opened = **file;
  std::vector<size_t> all(opened.entries().size());
  std::vector<size_t> some;
  for (size_t i = 0; i < all.size(); ++i) {
    all[i] = i;
    if ((options.chosen >> i % 8 & 1) != 0) some.push_back(i);
  }
  const auto whole = unless_refused([&] { return read(opened, all, false, 1); });
  const auto part = unless_refused([&] { return read(opened, some, false, options.num_threads); });
  const auto checked = unless_refused([&] { return read(opened, all, true, 1); });
  if (!whole) {
    require(!checked, "what does not load does not pass its check");
    return;
  }
  require(part.has_value(), "a part loads of what loads whole");
  for (size_t i = 0; i < some.size(); ++i) {
    require((*part)[i] == (*whole)[some[i]], "a part is the same as in the whole");
  }
  require(!checked || *checked == *whole, "what passes its check is what loads without");
  require(!checked || opened.has_crc(), "only a file with a CRC passes a check of it");
  check_mapped(opened, *whole);
}

}  // namespace
}  // namespace mindckpt

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t nbytes) {
  using namespace mindckpt;
  if (nbytes < kOptionBytes) return 0;
  static const MemoryFile file;
  const Options options{data[0] % (1 + 2 * kNumCiphers), size_t{data[1]} + 1, (data[2] & 1) == 0,
                        (data[2] & 2) == 0 ? 1 : 2, data[3]};
  const auto* const begin = reinterpret_cast<const std::byte*>(data);
  Bytes bytes(begin + kOptionBytes, begin + nbytes);
  std::shared_ptr<const Cipher> cipher;
  if (options.kind > 0) {
    cipher = cipher_of((options.kind - 1) % kNumCiphers);
    if (cipher == nullptr) return 0;
    if (options.kind > kNumCiphers) bytes = seal(*cipher, std::move(bytes), options);
  }
  file.write(bytes);
  load(file.path(), cipher, options);
  return 0;
}
