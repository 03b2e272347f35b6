#include "base/dynamic_library.h"

#include <doctest/doctest.h>

#include <string>

#include "support/temporary_folder.h"

namespace mindckpt {
namespace {

constexpr auto kAtOnce = DynamicLibrary::Symbols::kAtOnce;

TEST_CASE("a library's functions are called by their types") {
  std::string why;
  const auto library = DynamicLibrary::load("libm.so.6", kAtOnce, why);
  REQUIRE_MESSAGE(library.has_value(), why);
  double (*root)(double) = library->symbol("sqrt");
  REQUIRE(bool(root != nullptr));
  CHECK(root(9.0) == 3.0);
  double (*nothing)(double) = library->symbol("no_such_function");
  CHECK(bool(nothing == nullptr));
}

TEST_CASE("a library that can't be loaded says why in one line") {
  const test::TemporaryFolder folder;
  test::write_file(folder.path("text.so"), "not a library\n");
  for (const std::string& name : {std::string("libno-such-library.so"), folder.path("text.so")}) {
    std::string why;
    CHECK_FALSE(DynamicLibrary::load(name, kAtOnce, why).has_value());
    CAPTURE(why);
    CHECK(why.find(name) != std::string::npos);
    CHECK(why.find('\n') == std::string::npos);
  }
}

TEST_CASE("a library is found where it is loaded already, and nowhere else") {
  CHECK(DynamicLibrary::find_loaded("libc.so.6").has_value());
  CHECK_FALSE(DynamicLibrary::find_loaded("libno-such-library.so").has_value());
}

}  // namespace
}  // namespace mindckpt
