#include "cipher/lane_cbc.h"

#include <doctest/doctest.h>

#include <string>

#include "cipher/kernels.h"
#include "cipher/lane_aes_cbc.h"
#include "cipher/lane_sm4_cbc.h"

// ctest runs these cases once for each level of features too, see CMakeLists.txt.
namespace mindckpt {
namespace {

using test::Bytes;
using test::Random;

TEST_CASE("every AES-CBC kernel equals OpenSSL over random keys, batches, lengths and splits") {
  Random random(201);
  for (const AesCbcChoice& choice : aes_cbc_choices()) {
    CAPTURE(std::string(choice.kernel->name));
    if (!cpu_features().contains(choice.needs)) {
      MESSAGE("not run: no " << cpu_feature_names(choice.needs) << " here for "
                             << std::string(choice.kernel->name));
      continue;
    }
    for (const size_t key_nbytes : {16u, 24u, 32u}) {
      const std::string name = "AES-" + std::to_string(key_nbytes * 8) + "-CBC";
      const Bytes key = random.bytes(key_nbytes);
      const LaneCbc<AesSchedule> cbc({choice.kernel}, [&](AesSchedule& schedule) {
        expand_aes_key(uchars(key), key.size(), schedule);
      });
      test::check_against_openssl(name, key, cbc, random);
    }
  }
}

TEST_CASE("every SM4-CBC kernel equals OpenSSL over random keys, batches, lengths and splits") {
  if (make_openssl_sm4_cbc(Bytes(16)) == nullptr) {
    MESSAGE("skipped: this OpenSSL was built without SM4");
    return;
  }
  Random random(204);
  for (const Sm4CbcChoice& choice : sm4_cbc_choices()) {
    CAPTURE(std::string(choice.kernel->name));
    if (!cpu_features().contains(choice.needs)) {
      MESSAGE("not run: no " << cpu_feature_names(choice.needs) << " here for "
                             << std::string(choice.kernel->name));
      continue;
    }
    for (int i = 0; i < 3; ++i) {
      const Bytes key = random.bytes(16);
      const LaneCbc<Sm4Schedule> cbc(
          {choice.kernel}, [&](Sm4Schedule& schedule) { expand_sm4_key(uchars(key), schedule); });
      test::check_against_openssl("SM4-CBC", key, cbc, random);
    }
  }
}

TEST_CASE("SM4-CBC comes from a kernel wherever the processor has the instructions") {
  const CpuFeatures here = cpu_features();
  bool expected = false;
  for (const Sm4CbcChoice& choice : sm4_cbc_choices()) expected |= here.contains(choice.needs);
  CHECK((make_lane_sm4_cbc(Bytes(16)) != nullptr) == expected);
}

TEST_CASE("AES-CBC as it is picked here equals OpenSSL over random batches") {
  Random random(202);
  for (const size_t key_nbytes : {16u, 24u, 32u}) {
    const std::string name = "AES-" + std::to_string(key_nbytes * 8) + "-CBC";
    const Bytes key = random.bytes(key_nbytes);
    test::check_against_openssl(name, key, *make_aes_cbc(key), random);
    test::check_against_openssl(name, key, *make_openssl_aes_cbc(key), random);
  }
}

TEST_CASE("AES-CBC comes from a kernel wherever the processor has the instructions") {
  CHECK((make_lane_aes_cbc(Bytes(16)) != nullptr) == cpu_features().contains(CpuFeature::kAes));
}

TEST_CASE("a kernel that gives a wrong answer is found out") {
  for (const AesCbcChoice& choice : aes_cbc_choices()) {
    if (!cpu_features().contains(choice.needs)) continue;
    AesSchedule schedule;
    expand_aes_key(uchars(Bytes(16)), 16, schedule);
    CHECK_FALSE(gives_answer(*choice.kernel, schedule, Answer{}));
  }
}

// That sealing a run of frames at once gives what sealing each by itself does.
void check_run(const Cipher& cipher, const Bytes& plain, uint64_t frame_bytes) {
  CAPTURE(frame_bytes);
  CAPTURE(plain.size());
  const Iv base = cipher.random_base();
  Bytes run(cipher.frames_nbytes(plain.size(), frame_bytes));
  cipher.seal_run(plain, frame_bytes, base, run);
  Bytes single;
  for (uint64_t at = 0; at < plain.size(); at += frame_bytes) {
    const ByteView part =
        ByteView(plain).subspan(at, std::min<uint64_t>(frame_bytes, plain.size() - at));
    Bytes frame(cipher.frame_nbytes(part.size()));
    cipher.seal(part, cipher.iv_of(cipher.block_number(base, at / frame_bytes)), frame);
    single.insert(single.end(), frame.begin(), frame.end());
  }
  CHECK(run == single);
}

TEST_CASE("a run of frames equals frames that are sealed one by one") {
  Random random(203);
  for (const test::CipherKind& kind : test::every_kind()) {
    CAPTURE(kind.label());
    const auto cipher = kind.make(random.bytes(kind.key_nbytes));
    for (int i = 0; i < 60; ++i) {
      const uint64_t frame_bytes = random.between(1, 300);
      check_run(*cipher, random.bytes(random.between(1, 150 * frame_bytes)), frame_bytes);
    }
  }
}

TEST_CASE("frames that meet in the cache are sealed one behind the other, to the same bytes") {
  Random random(204);
  for (const test::CipherKind& kind : test::every_kind()) {
    CAPTURE(kind.label());
    const auto cipher = kind.make(random.bytes(kind.key_nbytes));
    for (const uint64_t in_file : {2048u, 4096u, 6144u, 16384u}) {
      const uint64_t frame_bytes = in_file - kFrameOverheadBytes;
      const uint64_t all = frame_bytes * cipher->frames_at_once();
      check_run(*cipher, random.bytes(all), frame_bytes);
      check_run(*cipher, random.bytes(random.between(1, 3 * all)), frame_bytes);
    }
  }
}

}  // namespace
}  // namespace mindckpt
