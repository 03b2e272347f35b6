#include "image/file_image.h"

#include <doctest/doctest.h>

#include "image/record.h"
#include "support/bytes.h"
#include "support/errors.h"
#include "support/message.h"
#include "support/parameters.h"

namespace mindckpt {
namespace {

using test::Bytes;
using test::bytes_of;
using test::error_of;
using test::Parameters;
using test::Random;
using test::read_image;

constexpr uint64_t kBlockBytes = 1000;

FileImage plan(const Parameters& parameters, bool crc = false) {
  return FileImage::plan(parameters.refs(), {kBlockBytes, crc, std::nullopt});
}

// A tensor of `nbytes` Int8 whose payload nobody may touch: there is none.
TensorRef untouchable(std::string name, uint64_t nbytes) {
  HostLayout layout;
  layout.shape = {static_cast<int64_t>(nbytes)};
  return {std::move(name), "Int8", layout.shape, layout, nbytes};
}

TEST_CASE("an image equals the concatenation of its records by the tests' own encoder") {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    CAPTURE(seed);
    Parameters parameters(seed);
    parameters.add_random(seed % 12);
    const FileImage image = plan(parameters);
    CHECK(image.nbytes() == parameters.records().size());
    CHECK(image.payload_nbytes() == parameters.payload_nbytes());
    CHECK(image.tensors().size() == parameters.all().size());
    CHECK((test::text_of(read_image(image)) == parameters.records()));
  }
}

TEST_CASE("the pieces of random ranges equal those ranges of the whole") {
  Parameters parameters(31);
  const FileImage image = plan(parameters.add_random(20), true);
  const Bytes whole = read_image(image);
  Random random(31);
  for (int i = 0; i < 2000; ++i) {
    const uint64_t offset = random.below(whole.size() + 1);
    const uint64_t most = random.one_in(4) ? whole.size() : 40;
    const uint64_t nbytes = random.below(std::min(most, whole.size() - offset) + 1);
    CAPTURE(offset);
    CAPTURE(nbytes);
    REQUIRE(test::same(read_image(image, offset, nbytes), ByteView(whole).subspan(offset, nbytes)));
  }
}

TEST_CASE("blocks of any size tile the image") {
  Parameters parameters;
  test::add_typical(parameters);
  for (const uint64_t block_bytes : {1u, 15u, 16u, 17u, 100u, 1u << 20u}) {
    CAPTURE(block_bytes);
    const FileImage image = FileImage::plan(parameters.refs(), {block_bytes, true, std::nullopt});
    uint64_t end = 0;
    for (uint64_t block = 0; block < image.num_blocks(); ++block) {
      CHECK(image.block_begin(block) == end);
      CHECK(image.block_nbytes(block) >= 1);
      CHECK(image.block_nbytes(block) <= block_bytes);
      end += image.block_nbytes(block);
    }
    CHECK(end == image.nbytes());
  }
}

TEST_CASE("no parameters make a file of no bytes") {
  const FileImage image = FileImage::plan({}, {kBlockBytes, false, std::nullopt});
  CHECK(image.nbytes() == 0);
  CHECK(image.num_blocks() == 0);
  CHECK(image.pieces(0, 0).empty());
}

TEST_CASE("an empty tensor keeps its record and shares a piece with the next header") {
  Parameters parameters;
  parameters.add("a", "Float32", {0}).add("b", "Float32", {3, 0}).add("c", "Int8", {2});
  const FileImage image = plan(parameters);
  const auto pieces = image.pieces(0, image.nbytes());
  REQUIRE(pieces.size() == 2);
  CHECK(pieces[0].payload == nullptr);
  CHECK(pieces[1].payload != nullptr);
  CHECK((test::text_of(read_image(image)) == parameters.records()));
}

TEST_CASE("a tensor of 512 MiB is one record and a byte more makes two") {
  const std::vector<int64_t> dims{int64_t{kSliceBytes} + 1};
  const auto header = [&](const std::vector<int64_t>& stored, uint64_t nbytes) {
    std::string bytes;
    append_record_header(bytes, "w", "Int8", stored, nbytes);
    return bytes.size();
  };
  const auto size_of = [](uint64_t nbytes) {
    return FileImage::plan({untouchable("w", nbytes)}, {kBlockBytes, false, std::nullopt}).nbytes();
  };
  CHECK(size_of(kSliceBytes) == header({int64_t{kSliceBytes}}, kSliceBytes) + kSliceBytes);
  CHECK(size_of(kSliceBytes + 1) == header(dims, kSliceBytes) + kSliceBytes + header(dims, 1) + 1);
}

TEST_CASE("slices of a large tensor follow each other and each carries the full dims") {
  constexpr uint64_t kLarge = 3 * kSliceBytes + 5;
  const FileImage image = FileImage::plan({untouchable("large", kLarge), untouchable("next", 7)},
                                          {uint64_t{4} << 20, false, std::nullopt});
  CHECK(image.payload_nbytes() == kLarge + 7);
  const auto pieces = image.pieces(0, image.nbytes());
  REQUIRE(pieces.size() == 10);
  uint64_t begin = 0;
  for (size_t slice = 0; slice < 4; ++slice) {
    const uint64_t nbytes = std::min(kLarge - begin, kSliceBytes);
    std::string header;
    append_record_header(header, "large", "Int8", std::vector{int64_t{kLarge}}, nbytes);
    CHECK(test::text_of(pieces[2 * slice].literal) == header);
    CHECK(pieces[2 * slice + 1].offset == begin);
    CHECK(pieces[2 * slice + 1].nbytes == nbytes);
    begin += nbytes;
  }
  CHECK(pieces[9].offset == 0);
  CHECK(pieces[9].nbytes == 7);
}

TEST_CASE("ranges around the border of two slices come from the right places") {
  const FileImage image =
      FileImage::plan({untouchable("w", kSliceBytes + 100)}, {kBlockBytes, false, std::nullopt});
  const auto all = image.pieces(0, image.nbytes());
  const uint64_t border = all[0].nbytes + kSliceBytes;
  const auto pieces = image.pieces(border - 3, 3 + all[2].nbytes + 4);
  REQUIRE(pieces.size() == 3);
  CHECK(pieces[0].offset == kSliceBytes - 3);
  CHECK(test::text_of(pieces[1].literal) == test::text_of(all[2].literal));
  CHECK(pieces[2].offset == kSliceBytes);
  CHECK(pieces[2].nbytes == 4);
}

TEST_CASE("a CRC trailer holds zeros until the checksum is set") {
  Parameters parameters;
  test::add_typical(parameters);
  FileImage image = plan(parameters, true);
  CHECK(image.has_crc());
  CHECK(image.records_nbytes() == parameters.records().size());
  CHECK(test::text_of(read_image(image)) == parameters.records() + test::trailer(0));
  image.set_crc(0x89ABCDEF);
  CHECK(test::text_of(read_image(image)) == parameters.records() + test::trailer(0x89ABCDEF));
}

TEST_CASE("a CRC is set only where there is a trailer") {
  Parameters parameters;
  FileImage image = plan(parameters.add("a", "Int8", {1}));
  CHECK_FALSE(image.has_crc());
  CHECK(error_of([&] { image.set_crc(1); }).kind() == ErrorKind::kInternal);
}

TEST_CASE("seal records open and close the records and count the blocks") {
  Parameters parameters;
  test::add_typical(parameters);
  const Iv base = test::array_of<kIvBytes>(bytes_of("sixteen bytes!!!"));
  for (const bool crc : {false, true}) {
    const FileImage image = FileImage::plan(parameters.refs(), {16, crc, base});
    const uint64_t nbytes = 51 + parameters.records().size() + 51 + (crc ? 17 : 0);
    CHECK(image.nbytes() == nbytes);
    CHECK(image.records_nbytes() == nbytes - (crc ? 17 : 0));
    const Seal seal{base, (nbytes + 15) / 16, nbytes};
    const std::string expected = encode_seal(seal, Seal::Position::kOpening) +
                                 parameters.records() + encode_seal(seal, Seal::Position::kClosing);
    CHECK(test::text_of(read_image(image, 0, image.records_nbytes())) == expected);
  }
}

TEST_CASE("relocated payloads are read from where they were moved to") {
  Parameters parameters;
  test::add_typical(parameters);
  FileImage image = plan(parameters);
  std::deque<Bytes> copies;
  image.relocate_payloads([&copies](TensorRef& tensor) {
    Bytes& copy = copies.emplace_back(tensor.nbytes);
    copy_payload(tensor.layout, 0, copy);
    tensor.layout = {};
    tensor.layout.data = copy.data();
  });
  CHECK(copies.size() == parameters.all().size());
  for (test::Parameter& parameter : parameters.all()) {
    std::ranges::fill(parameter.memory, std::byte{0});
  }
  CHECK((test::text_of(read_image(image)) == parameters.records()));
}

TEST_CASE("ranges outside the image and blocks of no bytes are bugs that are reported") {
  Parameters parameters;
  const FileImage image = plan(parameters.add("a", "Int8", {4}));
  const auto kind_of = [&](uint64_t offset, uint64_t nbytes) {
    return error_of([&] { image.pieces(offset, nbytes); }).kind();
  };
  CHECK(kind_of(0, image.nbytes() + 1) == ErrorKind::kInternal);
  CHECK(kind_of(image.nbytes(), 1) == ErrorKind::kInternal);
  CHECK(kind_of(image.nbytes() + 1, 0) == ErrorKind::kInternal);
  CHECK(kind_of(1, ~uint64_t{0}) == ErrorKind::kInternal);
  CHECK(image.pieces(image.nbytes(), 0).empty());
  CHECK(error_of([] { FileImage::plan({}, {0, false, std::nullopt}); }).kind() ==
        ErrorKind::kInternal);
}

}  // namespace
}  // namespace mindckpt
