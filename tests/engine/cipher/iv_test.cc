#include "cipher/iv.h"

#define OPENSSL_SUPPRESS_DEPRECATED  // RAND_set_rand_method: new providers are not set so simply
#include <doctest/doctest.h>
#include <openssl/rand.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "support/bytes.h"
#include "support/ciphers.h"
#include "support/errors.h"

namespace {

enum class Kernel { kReal, kStuck, kInterrupted, kAbsent };
Kernel kernel = Kernel::kReal;

}  // namespace

// Stands before the C library's, for what the engine asks the kernel for.
extern "C" ssize_t getrandom(void* out, size_t nbytes, unsigned flags) {
  switch (kernel) {
    case Kernel::kReal:
      break;
    case Kernel::kStuck:
      std::fill_n(static_cast<unsigned char*>(out), nbytes, 0x5A);
      return static_cast<ssize_t>(nbytes);
    case Kernel::kInterrupted: {  // every other call, and a byte at a time in those between
      static bool again = false;
      again = !again;
      if (again) {
        errno = EINTR;
        return -1;
      }
      nbytes = 1;
      break;
    }
    case Kernel::kAbsent:
      errno = ENOSYS;
      return -1;
  }
  return ::syscall(SYS_getrandom, out, nbytes, flags);
}

namespace mindckpt {
namespace {

// As long as one lives, the kernel's generator is as it says.
struct KernelIs {
  explicit KernelIs(Kernel wanted) { kernel = wanted; }
  ~KernelIs() { kernel = Kernel::kReal; }
};

// As long as one lives, OpenSSL's generator draws the same each time: as it does in two copies of a
// process, each once.
struct OpensslIsStuck {
  OpensslIsStuck() {
    static const RAND_METHOD stuck = {nullptr, draw, nullptr, nullptr, draw, nullptr};
    RAND_set_rand_method(&stuck);
  }
  ~OpensslIsStuck() { RAND_set_rand_method(nullptr); }

 private:
  static int draw(unsigned char* out, int nbytes) {
    std::fill_n(out, nbytes, 0xA5);
    return 1;
  }
};

// That each bit of a first number is drawn: in 64 of them it takes both values, but for a chance of
// 2^-56 for all bits together.
void check_all_bits_are_drawn() {
  for (const test::CipherKind& drawn : test::every_mode()) {
    CAPTURE(drawn.label());
    const auto cipher = drawn.make(test::Bytes(drawn.key_nbytes));
    Iv ones{};
    Iv zeros{};
    for (int i = 0; i < 64; ++i) {
      const Iv base = cipher->random_base();
      for (size_t at = 0; at < base.size(); ++at) {
        ones[at] |= base[at];
        zeros[at] |= ~base[at];
      }
    }
    const size_t nbytes = drawn.mode == CipherMode::kAesGcm ? 12 : 16;
    for (size_t at = 0; at < nbytes; ++at) {
      CAPTURE(at);
      CHECK((ones[at] == std::byte{0xFF}));
      CHECK((zeros[at] == std::byte{0xFF}));
    }
  }
}

using test::CipherKind;
using test::from_hex;
using test::hex;
using test::Random;

Iv iv(std::string_view text) { return test::array_of<kIvBytes>(from_hex(text)); }

// Counts up by one, as by hand: `times` carries from the last of the first `nbytes` bytes.
Iv counted_up(Iv value, uint64_t times, size_t nbytes) {
  for (; times > 0; --times) {
    for (size_t i = nbytes; i-- > 0;) {
      value[i] = static_cast<std::byte>(std::to_integer<unsigned>(value[i]) + 1);
      if (value[i] != std::byte{0}) break;
    }
  }
  return value;
}

TEST_CASE("adding to an IV carries and wraps around in its first bytes only") {
  const auto add = [](std::string_view text, uint64_t value, size_t nbytes) {
    return hex(add_big_endian(iv(text), value, nbytes));
  };
  CHECK(add("00000000000000000000000000000000", 1, 16) == "00000000000000000000000000000001");
  CHECK(add("000000000000000000000000aabbccdd", 1, 12) == "000000000000000000000001aabbccdd");
  CHECK(add("0000000000000000000000ffaabbccdd", 1, 12) == "000000000000000000000100aabbccdd");
  CHECK(add("ffffffffffffffffffffffffaabbccdd", 1, 12) == "000000000000000000000000aabbccdd");
  CHECK(add("ffffffffffffffffffffffffffffffff", 3, 16) == "00000000000000000000000000000002");
  CHECK(add("00000000ffffffffffffffff00000000", ~uint64_t{0}, 12) ==
        "00000001fffffffffffffffe00000000");
  CHECK(add("0000000000000000ffffffffffffffff", ~uint64_t{0}, 16) ==
        "0000000000000001fffffffffffffffe");
}

TEST_CASE("adding to an IV equals counting up by one") {
  Random random(51);
  for (int i = 0; i < 300; ++i) {
    Iv base = test::random_iv(random);
    const size_t nbytes = random.pick<size_t>({12, 16});
    for (size_t j = nbytes; j > random.below(nbytes); --j) base[j - 1] = std::byte{0xFF};
    const uint64_t value = random.below(600);
    CHECK(hex(add_big_endian(base, value, nbytes)) == hex(counted_up(base, value, nbytes)));
  }
}

TEST_CASE("adding twice to an IV equals adding the sum") {
  Random random(52);
  for (int i = 0; i < 300; ++i) {
    const Iv base = test::random_iv(random);
    const uint64_t a = random.bits() >> 1, b = random.bits() >> 1;
    const Iv twice = add_big_endian(add_big_endian(base, a, 12), b, 12);
    CHECK(hex(twice) == hex(add_big_endian(base, a + b, 12)));
  }
}

TEST_CASE("random IVs do not repeat") {
  for (const CipherKind& kind : test::every_mode()) {
    const auto cipher = kind.make(test::Bytes(kind.key_nbytes));
    std::set<Iv> drawn;
    for (int i = 0; i < 1000; ++i) drawn.insert(cipher->random_base());
    CHECK(drawn.size() == 1000);
  }
}

TEST_CASE("every bit of a file's first number is random") { check_all_bits_are_drawn(); }

// A virtual machine restored twice from one snapshot has two.
TEST_CASE("two clones of one state of OpenSSL's generator draw different first numbers") {
  const OpensslIsStuck both;
  for (const CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    const auto cipher = kind.make(test::Bytes(kind.key_nbytes));
    CHECK((cipher->random_base() != cipher->random_base()));
  }
  check_all_bits_are_drawn();
}

TEST_CASE("first numbers are random though the kernel's generator repeats itself") {
  const KernelIs stuck(Kernel::kStuck);
  check_all_bits_are_drawn();
}

TEST_CASE("an interrupted or short call to the kernel's generator is made again") {
  const KernelIs interrupted(Kernel::kInterrupted);
  const OpensslIsStuck openssl;
  check_all_bits_are_drawn();
}

TEST_CASE("no first number is drawn where the kernel gives no random numbers") {
  const KernelIs absent(Kernel::kAbsent);
  for (const CipherKind& kind : test::every_mode()) {
    const auto cipher = kind.make(test::Bytes(kind.key_nbytes));
    const Error error = test::error_of([&] { cipher->random_base(); });
    CHECK(error.kind() == ErrorKind::kUnavailable);
    CHECK(test::message(error) == doctest::Contains("getrandom: Function not implemented"));
  }
}

TEST_CASE("a block's number is got back from its IV in every mode") {
  Random random(53);
  for (const CipherKind& kind : test::every_kind()) {
    CAPTURE(kind.label());
    const auto cipher = kind.make(random.bytes(kind.key_nbytes));
    for (int i = 0; i < 100; ++i) {
      const Iv number = cipher->block_number(cipher->random_base(), random.bits());
      CHECK(hex(cipher->number_of(cipher->iv_of(number))) == hex(number));
    }
  }
}

TEST_CASE("the blocks of a file have IVs that all differ though the numbers wrap around") {
  Random random(54);
  const Iv gcm_last = iv("ffffffffffffffffffffffff00000000");
  const Iv cbc_last = iv("ffffffffffffffffffffffffffffffff");
  for (const CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    const auto cipher = kind.make(random.bytes(kind.key_nbytes));
    const Iv base = kind.mode == CipherMode::kAesGcm ? gcm_last : cbc_last;
    std::set<Iv> used;
    for (uint64_t block = 0; block < 1000; ++block) {
      used.insert(cipher->iv_of(cipher->block_number(base, block)));
    }
    CHECK(used.size() == 1000);
    CHECK(hex(cipher->block_number(base, 0)) == hex(base));
    CHECK(hex(cipher->block_number(base, 1)) == "00000000000000000000000000000000");
  }
}

TEST_CASE("GCM's IV is the number and its last four bytes stay zero") {
  const auto cipher = Cipher::create(CipherMode::kAesGcm, test::Bytes(16));
  const Iv base = cipher->random_base();
  CHECK(hex(base).ends_with("00000000"));
  CHECK(hex(cipher->iv_of(base)) == hex(base));
  // MindSpore's are 16 random bytes, of which 12 count.
  CHECK(hex(cipher->number_of(iv("000102030405060708090a0b0c0d0e0f"))) ==
        "000102030405060708090a0b00000000");
}

TEST_CASE("CBC's IV is the number encrypted as NIST SP 800-38A suggests in appendix C") {
  Random random(55);
  for (const size_t key_nbytes : {16u, 24u, 32u}) {
    const test::Bytes key = random.bytes(key_nbytes);
    const Iv number = test::random_iv(random);
    const std::string ecb = "AES-" + std::to_string(key_nbytes * 8) + "-ECB";
    CHECK(hex(Cipher::create(CipherMode::kAesCbc, key)->iv_of(number)) ==
          hex(test::openssl_encrypt(ecb, key, Iv{}, number)));
  }
}

}  // namespace
}  // namespace mindckpt
