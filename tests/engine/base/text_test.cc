#include "base/text.h"

#include <doctest/doctest.h>

namespace mindckpt {
namespace {

TEST_CASE("an ordinary name is quoted as it is") {
  CHECK(quoted("conv1.weight") == "'conv1.weight'");
  CHECK(quoted("") == "''");
  CHECK(quoted("a b, c") == "'a b, c'");
  CHECK(quoted("\xC3\xA9\xE5\x8F\x82\xF0\x9F\x99\x82") == "'\xC3\xA9\xE5\x8F\x82\xF0\x9F\x99\x82'");
}

TEST_CASE("quotes and backslashes are escaped, so that no name passes for an escaped one") {
  CHECK(quoted(R"(a'b\x1b)") == R"('a\'b\\x1b')");
}

TEST_CASE("what controls a terminal is escaped as in Python") {
  CHECK(quoted("a\x1B[2Jb") == R"('a\x1b[2Jb')");
  CHECK(quoted("a\nb\tc\r") == R"('a\x0ab\x09c\x0d')");
  CHECK(quoted(std::string_view("\0\x7F", 2)) == R"('\x00\x7f')");
  CHECK(quoted("\xC2\x80\xC2\x9B\xC2\x9F\xC2\xA0") == "'\\x80\\x9b\\x9f\xC2\xA0'");
}

TEST_CASE("what turns the direction of a line or ends it is escaped as in Python") {
  CHECK(quoted("\xE2\x80\xAE") == R"('\u202e')");
  CHECK(quoted("\xD8\x9C\xE2\x80\x8E\xE2\x80\x8F") == R"('\u061c\u200e\u200f')");
  CHECK(quoted("\xE2\x80\xA8\xE2\x80\xA9\xE2\x81\xA6\xE2\x81\xA9") ==
        R"('\u2028\u2029\u2066\u2069')");
  CHECK(quoted("\xE2\x80\xA7\xE2\x80\xAF") == "'\xE2\x80\xA7\xE2\x80\xAF'");  // their neighbours
}

TEST_CASE("bytes that are no text are not shown") {
  CHECK(quoted("a\xFF\x80z") == "'a??z'");
  CHECK(quoted("\xE5\x8F") ==
        "'?"
        "?'");
  CHECK(quoted("\xED\xA0\x80") ==
        "'?"
        "?"
        "?'");  // a surrogate
}

TEST_CASE("a long name is cut after 80 bytes, between two characters") {
  CHECK(quoted(std::string(80, 'a')) == "'" + std::string(80, 'a') + "'");
  CHECK(quoted(std::string(81, 'a')) == "'" + std::string(80, 'a') + "...'");
  CHECK(quoted(std::string(79, 'a') + "\xC3\xA9") == "'" + std::string(79, 'a') + "...'");
  CHECK(quoted(std::string(78, 'a') + "\xC3\xA9") == "'" + std::string(78, 'a') + "\xC3\xA9'");
}

TEST_CASE("UTF-8 is as RFC 3629 has it") {
  for (const char* text : {"", "abc", "\xC2\x80", "\xE0\xA0\x80", "\xF4\x8F\xBF\xBF"}) {
    CAPTURE(text);
    CHECK(is_utf8(text));
  }
  for (const char* text : {"\x80", "\xC0\x80", "\xC3", "\xE0\x9F\xBF", "\xED\xA0\x80",
                           "\xF4\x90\x80\x80", "\xF8\x88\x80\x80\x80", "a\xFF"}) {
    CAPTURE(text);
    CHECK_FALSE(is_utf8(text));
  }
}

}  // namespace
}  // namespace mindckpt
