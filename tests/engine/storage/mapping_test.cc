#include "storage/mapping.h"

#include <doctest/doctest.h>

#include <cerrno>

#include "storage/source.h"
#include "support/errors.h"
#include "support/temporary_folder.h"

namespace mindckpt {
namespace {

using test::error_of;

TEST_CASE("writing to a mapping leaves the file as it was") {
  const test::TemporaryFolder folder;
  const std::string path = folder.path("x.ckpt");
  test::write_file(path, "the bytes of a file");
  const FileSource source(path);
  const Mapping mapping(source.fd(), source.nbytes(), path.c_str());
  CHECK(test::text_of({mapping.data(), 19}) == "the bytes of a file");
  mapping.data()[0] = std::byte{'T'};
  CHECK(test::text_of({mapping.data(), 3}) == "The");
  CHECK(test::read_file(path) == "the bytes of a file");
}

TEST_CASE("no bytes are mapped of an empty file") {
  CHECK(Mapping(-1, 0, "x.ckpt").data() == nullptr);
}

TEST_CASE("a mapping that fails throws what the system said with the path") {
  const Error error = error_of([] { Mapping(-1, 10, "x.ckpt"); });
  CHECK(error.kind() == ErrorKind::kIo);
  CHECK(error.error_number() == EBADF);
  CHECK(error.path() == "x.ckpt");
}

}  // namespace
}  // namespace mindckpt
