#include "cipher/key_memory.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/memory.h"
#include "base/wipe.h"
#include "cipher/kernels/sm4.h"
#include "cipher/lane_sm4_cbc.h"
#include "cipher/secret.h"
#include "cipher/sm4.h"
#include "support/bytes.h"
#include "support/child.h"
#include "support/ciphers.h"
#include "support/errors.h"

namespace {

// The next pages that go back to the system from here, and whether they were zeros by then.
void* watched = nullptr;
bool was_zeros = false;

}  // namespace

// Stands before the C library's.
extern "C" int munmap(void* pages, size_t nbytes) noexcept {
  if (pages == watched) {
    const auto* const bytes = static_cast<const unsigned char*>(pages);
    was_zeros = std::all_of(bytes, bytes + nbytes, [](unsigned char byte) { return byte == 0; });
    watched = nullptr;
  }
  return static_cast<int>(::syscall(SYS_munmap, pages, nbytes));
}

namespace mindckpt {
namespace {

using test::Bytes;
using test::CipherKind;
using test::error_of;
using test::Random;

// A pattern that is nowhere in memory as it is: every bit of it is turned around until it is
// compared.
class Masked {
 public:
  explicit Masked(ByteView bytes) : turned_(bytes.begin(), bytes.end()) {
    for (std::byte& byte : turned_) byte = ~byte;
  }

  Bytes bytes() const {
    Bytes copy = turned_;
    for (std::byte& byte : copy) byte = ~byte;
    return copy;
  }
  bool begins_at(const std::byte* at) const {
    for (size_t i = 0; i < turned_.size(); ++i) {
      if (at[i] != ~turned_[i]) return false;
    }
    return true;
  }
  int first_byte() const { return std::to_integer<int>(~turned_.front()); }
  size_t size() const { return turned_.size(); }

 private:
  Bytes turned_;
};

// How often a pattern stands in this process's writable memory, its own stack apart: what calls
// that have returned left there is no copy that anyone keeps. What sanitizers map for themselves is
// left out by its size.
size_t count_in_memory(const Masked& pattern) {
  constexpr uintptr_t kMostBytes = uintptr_t{128} << 20;
  const int memory = ::open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
  REQUIRE(memory >= 0);
  std::ifstream maps("/proc/self/maps");
  static std::array<std::byte, size_t{1} << 20> part;
  size_t found = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find(" rw") == std::string::npos || line.ends_with("[stack]")) continue;
    std::istringstream text(line);
    uintptr_t begin = 0;
    uintptr_t end = 0;
    char dash = 0;
    text >> std::hex >> begin >> dash >> end;
    if (end - begin > kMostBytes) continue;
    for (uintptr_t at = begin; at < end; at += part.size() - pattern.size()) {
      const size_t wanted = std::min<size_t>(end - at, part.size());
      const ssize_t nbytes = ::pread(memory, part.data(), wanted, static_cast<off_t>(at));
      if (nbytes < static_cast<ssize_t>(pattern.size())) break;
      // memchr is quick where sanitizers make a loop of ours slow.
      const std::byte* here = part.data();
      const std::byte* const end_of_begins = here + nbytes - pattern.size() + 1;
      while (here < end_of_begins) {
        const auto left = static_cast<size_t>(end_of_begins - here);
        here = static_cast<const std::byte*>(std::memchr(here, pattern.first_byte(), left));
        if (here == nullptr) break;
        const auto* const address = reinterpret_cast<const std::byte*>(at) + (here - part.data());
        const bool is_own = address >= part.data() && address < part.data() + part.size();
        if (!is_own && pattern.begins_at(here)) ++found;
        ++here;
      }
    }
    part.fill(std::byte{0});
  }
  ::close(memory);
  return found;
}

// A cipher, and nothing else that holds its key.
struct LonelyCipher {
  explicit LonelyCipher(const CipherKind& kind) {
    Random random(401 + kind.key_nbytes);
    Bytes key = random.bytes(kind.key_nbytes);
    key_pattern.emplace(key);
    cipher = kind.make(key);
    wipe(key.data(), key.size());
  }
  std::optional<Masked> key_pattern;  // AES's expanded key begins with the key
  std::shared_ptr<const Cipher> cipher;
};

// Whether this kernel does it: an emulated one may say so and not.
bool has_wipe_on_fork() {
  void* const page =
      ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(page != MAP_FAILED);
  ::madvise(page, kPageBytes, MADV_WIPEONFORK);
  auto* const byte = static_cast<volatile unsigned char*>(page);
  *byte = 1;
  const bool has = test::succeeds_in_child([&] { return *byte == 0; });
  ::munmap(page, kPageBytes);
  return has;
}

#define NEEDS_WIPE_ON_FORK()                                \
  if (!has_wipe_on_fork()) {                                \
    MESSAGE("skipped: this kernel has no MADV_WIPEONFORK"); \
    return;                                                 \
  }

TEST_CASE("memory for keys holds a value and goes back as zeros") {
  std::optional<KeyMemory<std::array<uint64_t, 20>>> memory(std::in_place);
  CHECK((**memory)[19] == 0);
  (**memory)[0] = (**memory)[19] = ~uint64_t{0};
  CHECK((**memory)[19] == ~uint64_t{0});
  CHECK(reinterpret_cast<uintptr_t>(&**memory) % 64 == 0);
  const auto address = reinterpret_cast<uintptr_t>(&**memory);
  watched = reinterpret_cast<void*>(address / kPageBytes * kPageBytes);
  memory.reset();
  CHECK(watched == nullptr);
  CHECK(was_zeros);
}

TEST_CASE("a forked child finds zeros where its parent keeps a key, and is told so") {
  NEEDS_WIPE_ON_FORK();
  const Bytes key = test::bytes_of("a key of 16 byte");
  const Secret secret(key);
  const auto* const at = secret.view().data();
  CHECK(test::succeeds_in_child([&] {
    const bool zeros =
        std::all_of(at, at + key.size(), [](std::byte b) { return b == std::byte{0}; });
    const Error error = error_of([&] { secret.view(); });
    return zeros && error.kind() == ErrorKind::kUnavailable;
  }));
  CHECK(test::same(secret.view(), key));
}

TEST_CASE("a forked child has no copy of a key that its parent works with") {
  NEEDS_WIPE_ON_FORK();
  for (const CipherKind& kind : test::every_kind()) {
    CAPTURE(kind.label());
    const LonelyCipher lonely(kind);
    Bytes frame(lonely.cipher->frame_nbytes(100));
    lonely.cipher->seal(Bytes(100), Iv{}, frame);
    if (kind.mode != CipherMode::kSm4Cbc) CHECK(count_in_memory(*lonely.key_pattern) > 0);
    CHECK(test::succeeds_in_child([&] { return count_in_memory(*lonely.key_pattern) == 0; }));
  }
}

TEST_CASE("SM4's expanded key is not in a forked child either") {
  NEEDS_WIPE_ON_FORK();
  const LonelyCipher lonely({CipherMode::kSm4Cbc, 16});
  if (sm4_provider() != "lanes") {
    MESSAGE("skipped: SM4 is not our kernels', which expand the key");
    return;
  }
  const Masked expanded = [&] {
    Sm4Schedule schedule;
    Bytes key = lonely.key_pattern->bytes();
    expand_sm4_key(uchars(ByteView(key)), schedule);
    Masked masked(std::as_bytes(std::span(schedule.encrypt)));
    wipe(&schedule, sizeof(schedule));
    wipe(key.data(), key.size());
    return masked;
  }();
  CHECK(count_in_memory(expanded) > 0);
  CHECK(test::succeeds_in_child([&] { return count_in_memory(expanded) == 0; }));
}

TEST_CASE("a cipher's key is nowhere in memory once it is gone") {
  for (const CipherKind& kind : test::every_kind()) {
    CAPTURE(kind.label());
    LonelyCipher lonely(kind);
    Bytes frame(lonely.cipher->frame_nbytes(100));
    lonely.cipher->seal(Bytes(100), Iv{}, frame);
    lonely.cipher.reset();
    CHECK(count_in_memory(*lonely.key_pattern) == 0);
  }
}

TEST_CASE("a cipher of the parent's neither seals nor opens in a forked child, and ends well") {
  NEEDS_WIPE_ON_FORK();
  for (const CipherKind& kind : test::every_kind()) {
    CAPTURE(kind.label());
    LonelyCipher lonely(kind);
    const Cipher& cipher = *lonely.cipher;
    const Bytes plain(100);
    Bytes frame(cipher.frame_nbytes(plain.size()));
    cipher.seal(plain, Iv{}, frame);
    const FrameHeader header = decode_frame_header(frame, kind.mode);
    const ByteView ciphertext = ByteView(frame).subspan(frame_header_nbytes(kind.mode));
    Bytes out(1000);
    const std::vector<std::function<void()>> uses = {
        [&] { cipher.seal(plain, Iv{}, out); }, [&] { cipher.seal_run(plain, 50, Iv{}, out); },
        [&] { cipher.open(header, ciphertext, out); },
        [&] { cipher.peek(header, 0, ciphertext.first(16), ByteSpan(out).first(16)); }};
    CHECK(test::succeeds_in_child([&] {
      const bool refused = std::ranges::all_of(
          uses, [](const auto& use) { return error_of(use).kind() == ErrorKind::kUnavailable; });
      lonely.cipher.reset();
      return refused;
    }));
    for (const auto& use : uses) use();
  }
}

}  // namespace
}  // namespace mindckpt
