#include <doctest/doctest.h>

#include "cipher/cbc.h"
#include "cipher/cipher.h"
#include "support/bytes.h"
#include "support/errors.h"

// AES against published vectors. SM4's are in sm4_test.cc.
namespace mindckpt {
namespace {

using test::Bytes;
using test::from_hex;
using test::hex;

// Test cases of McGrew and Viega's "The Galois/Counter Mode of Operation", which NIST refers to:
// those with a 96-bit IV and no additional data.
struct GcmVector {
  const char* name;
  const char* key;
  const char* iv;
  const char* plain;
  const char* ciphertext;
  const char* tag;
};

constexpr const char* kZeroIv = "000000000000000000000000";
constexpr const char* kIv = "cafebabefacedbaddecaf888";
constexpr const char* kPlain =
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";

constexpr GcmVector kGcmVectors[] = {
    {"1", "00000000000000000000000000000000", kZeroIv, "", "", "58e2fccefa7e3061367f1d57a4e7455a"},
    {"2", "00000000000000000000000000000000", kZeroIv, "00000000000000000000000000000000",
     "0388dace60b6a392f328c2b971b2fe78", "ab6e47d42cec13bdf53a67b21257bddf"},
    {"3", "feffe9928665731c6d6a8f9467308308", kIv, kPlain,
     "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
     "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985",
     "4d5c2af327cd64a62cf35abd2ba6fab4"},
    {"7", "000000000000000000000000000000000000000000000000", kZeroIv, "", "",
     "cd33b28ac773f74ba00ed1f312572435"},
    {"8", "000000000000000000000000000000000000000000000000", kZeroIv,
     "00000000000000000000000000000000", "98e7247c07f0fe411c267e4384b0f600",
     "2ff58d80033927ab8ef4d4587514f0fb"},
    {"9", "feffe9928665731c6d6a8f9467308308feffe9928665731c", kIv, kPlain,
     "3980ca0b3c00e841eb06fac4872a2757859e1ceaa6efd984628593b40ca1e19c"
     "7d773d00c144c525ac619d18c84a3f4718e2448b2fe324d9ccda2710acade256",
     "9924a7c8587336bfb118024db8674a14"},
    {"13", "0000000000000000000000000000000000000000000000000000000000000000", kZeroIv, "", "",
     "530f8afbc74536b9a963b4f1c4cb738b"},
    {"14", "0000000000000000000000000000000000000000000000000000000000000000", kZeroIv,
     "00000000000000000000000000000000", "cea7403d4d606b6e074ec5d3baf39d18",
     "d0d1c8a799996bf0265b98b5d48ab919"},
    {"15", "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", kIv, kPlain,
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
     "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
     "b094dac5d93471bdec1a502270e3cc6c"},
};

TEST_CASE("AES-GCM matches the vectors of its specification for every key length") {
  for (const GcmVector& vector : kGcmVectors) {
    CAPTURE(vector.name);
    const auto cipher = Cipher::create(CipherMode::kAesGcm, from_hex(vector.key));
    const Bytes plain = from_hex(vector.plain);
    Bytes frame(cipher->frame_nbytes(plain.size()));
    // The last four bytes of MindSpore's 16-byte IV play no part.
    const Bytes iv = from_hex(std::string(vector.iv) + "5a5a5a5a");
    cipher->seal(plain, test::array_of<kIvBytes>(iv), frame);
    CHECK(hex(ByteView(frame).subspan(4, kTagBytes)) == vector.tag);
    CHECK(hex(ByteView(frame).subspan(frame_header_nbytes(CipherMode::kAesGcm))) ==
          vector.ciphertext);
  }
}

// NIST SP 800-38A, appendix F.2: CBC-AES128, CBC-AES192 and CBC-AES256.
struct CbcVector {
  const char* name;
  const char* key;
  const char* ciphertext;
};

constexpr const char* kCbcIv = "000102030405060708090a0b0c0d0e0f";
constexpr const char* kCbcPlain =
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710";

constexpr CbcVector kCbcVectors[] = {
    {"F.2.1", "2b7e151628aed2a6abf7158809cf4f3c",
     "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2"
     "73bed6b8e3c1743b7116e69e222295163ff1caa1681fac09120eca307586e1a7"},
    {"F.2.3", "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
     "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a"
     "571b242012fb7ae07fa9baac3df102e008b0e27988598881d920a9e64f5615cd"},
    {"F.2.5", "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
     "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d"
     "39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b"},
};

TEST_CASE("AES-CBC matches the vectors of NIST SP 800-38A for every key length") {
  for (const CbcVector& vector : kCbcVectors) {
    CAPTURE(vector.name);
    const auto cbc = make_openssl_aes_cbc(from_hex(vector.key));
    const Iv iv = test::array_of<kIvBytes>(from_hex(kCbcIv));
    const Bytes plain = from_hex(kCbcPlain);
    Bytes ciphertext(plain.size());
    cbc->encrypt(iv, plain, ciphertext);
    CHECK(hex(ciphertext) == vector.ciphertext);
    cbc->decrypt(iv, ciphertext, ciphertext);
    CHECK(ciphertext == plain);
  }
}

TEST_CASE("a sealed AES-CBC block begins with the vector of NIST SP 800-38A") {
  const auto cipher = Cipher::create(CipherMode::kAesCbc, from_hex(kCbcVectors[0].key));
  const Bytes plain = from_hex(kCbcPlain);
  Bytes frame(cipher->frame_nbytes(plain.size()));
  cipher->seal(plain, test::array_of<kIvBytes>(from_hex(kCbcIv)), frame);
  CHECK(hex(ByteView(frame).subspan(32, 64)) == kCbcVectors[0].ciphertext);
}

}  // namespace
}  // namespace mindckpt
