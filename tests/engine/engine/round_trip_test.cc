#include <doctest/doctest.h>

#include "checksum/crc32.h"
#include "engine/saving.h"
#include "support/errors.h"
#include "support/message.h"

// What is saved is what MindSpore would write, and loads back, whatever the blocks and threads.
namespace mindckpt {
namespace {

using test::Bytes;
using test::bytes_of;
using test::check_loads;
using test::cipher_of;
using test::CipherKind;
using test::Parameters;
using test::Random;
using test::saved;
using test::SaveFixture;
using test::SharedCipher;
using test::text_of;

const std::vector<uint64_t> kBlockSizes = {1, 15, 16, 17, 1000, uint64_t{1} << 20};

TEST_CASE_FIXTURE(SaveFixture, "a plain save equals the tests' own encoder and loads back") {
  for (const bool crc : {false, true}) {
    for (const uint64_t block_bytes : kBlockSizes) {
      for (int threads = 1; threads <= 4; ++threads) {
        CAPTURE(crc);
        CAPTURE(block_bytes);
        CAPTURE(threads);
        const Bytes file = saved(parameters, {nullptr, crc, block_bytes, threads});
        CHECK(text_of(file) == parameters.file(crc));
        test::write_file(path, file);
        check_loads(path, nullptr, parameters, crc, threads);
      }
    }
  }
}

TEST_CASE_FIXTURE(SaveFixture, "an encrypted save loads back whatever its blocks and threads") {
  for (const CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    const SharedCipher cipher = cipher_of(kind);
    for (const bool crc : {false, true}) {
      for (const uint64_t block_bytes : kBlockSizes) {
        for (int threads = 1; threads <= 4; ++threads) {
          CAPTURE(crc);
          CAPTURE(block_bytes);
          CAPTURE(threads);
          test::write_file(path, saved(parameters, {cipher, crc, block_bytes, threads}));
          check_loads(path, cipher, parameters, crc, threads);
        }
      }
    }
  }
}

TEST_CASE_FIXTURE(SaveFixture, "an encrypted save loads back with every length of key") {
  for (const CipherKind& kind : test::every_kind()) {
    CAPTURE(kind.label());
    const SharedCipher cipher = cipher_of(kind);
    test::write_file(path, saved(parameters, {cipher, true, 100, 2}));
    check_loads(path, cipher, parameters, true);
  }
}

TEST_CASE_FIXTURE(SaveFixture, "an encrypted save's plaintext is the plain one between two seals") {
  for (const CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    const SharedCipher cipher = cipher_of(kind);
    const test::MemorySource file(saved(parameters, {cipher, true, 40, 2}));
    const SealedSource source(file, *cipher);
    Bytes plain(source.nbytes());
    source.read_at(0, plain);
    const std::string text = text_of(plain);
    REQUIRE(text.size() == 51 + parameters.records().size() + 51 + 17);
    CHECK(text.substr(51, parameters.records().size()) == parameters.records());
    const auto crc = crc32_update(0, ByteView(plain).first(plain.size() - 17));
    CHECK(text.ends_with(test::trailer(crc)));
  }
}

TEST_CASE_FIXTURE(SaveFixture, "a CRC trailer cut by blocks at any byte is right") {
  const uint64_t records = parameters.records().size();
  for (uint64_t cut = 0; cut <= 17; ++cut) {
    for (const uint64_t blocks : {1u, 2u, 5u}) {
      // A block border `cut` bytes into the trailer, wherever that makes blocks of one size.
      if ((records + cut) % blocks != 0) continue;
      for (int threads = 1; threads <= 3; ++threads) {
        CAPTURE(cut);
        CAPTURE(threads);
        const Bytes file = saved(parameters, {nullptr, true, (records + cut) / blocks, threads});
        CHECK(text_of(file) == parameters.file(true));
      }
    }
  }
}

TEST_CASE_FIXTURE(SaveFixture, "a CRC trailer cut by encrypted blocks at any byte is right") {
  const SharedCipher cipher = cipher_of({CipherMode::kAesGcm, 16});
  const uint64_t records = 51 + parameters.records().size() + 51;
  for (uint64_t cut = 0; cut <= 17; ++cut) {
    CAPTURE(cut);
    test::write_file(path, saved(parameters, {cipher, true, records + cut, 2}));
    check_loads(path, cipher, parameters, true);
  }
}

TEST_CASE_FIXTURE(SaveFixture, "random parameters load back in every mode with random blocks") {
  for (uint64_t seed = 0; seed < 24; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    Parameters drawn(seed);
    drawn.add_random(random.below(20));
    std::vector<SharedCipher> ciphers{nullptr};
    for (const CipherKind& kind : test::every_mode()) ciphers.push_back(cipher_of(kind));
    const SharedCipher& cipher = random.pick(ciphers);
    const bool crc = random.one_in(2);
    const auto threads = static_cast<int>(random.between(1, 4));
    test::write_file(path, saved(drawn, {cipher, crc, random.between(10, 3000), threads}));
    check_loads(path, cipher, drawn, crc, threads);
  }
}

// Larger than what is read at once, and with a gap that is not worth reading over.
TEST_CASE_FIXTURE(SaveFixture, "tensors of several MiB load back whole and in part") {
  Parameters large(121);
  large.add("a", "Int8", {(9 << 20) + 3}).add("b", "Float32", {50'000}).add("c", "Int8", {77});
  for (const SharedCipher& cipher : {SharedCipher(), cipher_of({CipherMode::kAesGcm, 32})}) {
    test::write_file(path, saved(large, {cipher, true, uint64_t{1} << 20, 4}));
    check_loads(path, cipher, large, true, 4);
    check_loads(path, cipher, large, false, 4);
    const CheckpointFile file(path, cipher);
    const auto ends = test::read_entries(file, {0, 2});
    CHECK((ends[0] == large.all()[0].payload));
    CHECK(ends[1] == large.all()[2].payload);
  }
}

TEST_CASE_FIXTURE(SaveFixture, "no parameters at all load back") {
  const Parameters none;
  for (const bool crc : {false, true}) {
    test::write_file(path, saved(none, {nullptr, crc, 10, 2}));
    check_loads(path, nullptr, none, crc);
    for (const CipherKind& kind : test::every_mode()) {
      const SharedCipher cipher = cipher_of(kind);
      test::write_file(path, saved(none, {cipher, crc, 10, 2}));
      check_loads(path, cipher, none, crc);
    }
  }
}

TEST_CASE_FIXTURE(SaveFixture, "files as MindSpore encrypts them load back") {
  Random random(122);
  for (const CipherKind& kind : test::every_kind()) {
    CAPTURE(kind.label());
    for (const bool crc : {false, true}) {
      const Bytes key = random.bytes(kind.key_nbytes);
      const Bytes plain = bytes_of(parameters.file(crc));
      Bytes file;
      for (ByteView rest = plain; !rest.empty();) {
        const size_t nbytes = random.between(1, std::min<size_t>(rest.size(), 90));
        const Bytes frame =
            test::mindspore_frame(kind.mode, key, test::random_iv(random), rest.first(nbytes));
        file.insert(file.end(), frame.begin(), frame.end());
        rest = rest.subspan(nbytes);
      }
      test::write_file(path, file);
      check_loads(path, kind.make(key), parameters, crc);
    }
  }
}

TEST_CASE_FIXTURE(SaveFixture, "two encrypted saves of the same parameters share no block") {
  for (const CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    const SharedCipher cipher = cipher_of(kind);
    const Bytes a = saved(parameters, {cipher, false, 64, 1});
    const Bytes b = saved(parameters, {cipher, false, 64, 1});
    CHECK(a.size() == b.size());
    const auto frames_a = test::split_frames(kind.mode, a);
    const auto frames_b = test::split_frames(kind.mode, b);
    for (size_t i = 0; i < frames_a.size(); ++i) CHECK_FALSE(frames_a[i] == frames_b[i]);
  }
}

TEST_CASE_FIXTURE(SaveFixture, "what a file says of itself is true") {
  const SharedCipher cipher = cipher_of({CipherMode::kAesGcm, 16});
  test::write_file(path, saved(parameters, {cipher, true}));
  const CheckpointFile sealed(path, cipher);
  CHECK(sealed.has_crc());
  CHECK(sealed.is_encrypted());
  CHECK(sealed.is_sealed());
  test::write_file(path, saved(parameters, {nullptr, false}));
  const CheckpointFile plain(path, nullptr);
  CHECK_FALSE(plain.has_crc());
  CHECK_FALSE(plain.is_encrypted());
  CHECK_FALSE(plain.is_sealed());
}

}  // namespace
}  // namespace mindckpt
