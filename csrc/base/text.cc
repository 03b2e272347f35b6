#include "base/text.h"

#include <array>
#include <cstddef>
#include <cstdint>

namespace mindckpt {

namespace {

struct Character {
  uint32_t code;
  size_t nbytes;  // 0: no UTF-8
};

// The first character of a text that is not empty.
Character first_character(std::string_view text) {
  const auto at = [&](size_t i) -> uint32_t {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;
  };
  const uint32_t first = at(0);
  const size_t nbytes = first < 0x80             ? 1
                        : (first & 0xE0) == 0xC0 ? 2
                        : (first & 0xF0) == 0xE0 ? 3
                        : (first & 0xF8) == 0xF0 ? 4
                                                 : 0;
  if (nbytes == 0) return {0, 0};
  uint32_t code = nbytes == 1 ? first : first & (0x7Fu >> nbytes);
  for (size_t i = 1; i < nbytes; ++i) {
    if ((at(i) & 0xC0) != 0x80) return {0, 0};
    code = code << 6 | (at(i) & 0x3F);
  }
  constexpr std::array<uint32_t, 5> kLeast = {0, 0, 0x80, 0x800, 0x10000};
  if (code < kLeast[nbytes] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return {0, 0};
  return {code, nbytes};
}

// Whether a character does more to a terminal than to stand there: the C0 and C1 controls, the ends
// of lines and paragraphs, and the marks of direction (Unicode TR 36, section 2.7).
bool is_control(uint32_t code) {
  return code < 0x20 || (code >= 0x7F && code < 0xA0) || code == 0x61C || code == 0x200E ||
         code == 0x200F || (code >= 0x2028 && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069);
}

// As Python's repr.
std::string escaped(uint32_t code) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text = code < 0x100 ? "\\x" : "\\u";
  for (int shift = code < 0x100 ? 4 : 12; shift >= 0; shift -= 4) {
    text.push_back(kDigits[code >> shift & 0xF]);
  }
  return text;
}

}  // namespace

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t nbytes = first_character(text).nbytes;
    if (nbytes == 0) return false;
    text.remove_prefix(nbytes);
  }
  return true;
}

std::string quoted(std::string_view name) {
  constexpr size_t kMost = 80;
  std::string_view rest = name;
  std::string text = "'";
  while (!rest.empty()) {
    const Character character = first_character(rest);
    const size_t nbytes = character.nbytes == 0 ? 1 : character.nbytes;
    if (name.size() - rest.size() + nbytes > kMost) {
      text += "...";
      break;
    }
    if (character.nbytes == 0) {
      text.push_back('?');
    } else if (is_control(character.code)) {
      text += escaped(character.code);
    } else if (character.code == '\'' || character.code == '\\') {
      text.push_back('\\');
      text.push_back(static_cast<char>(character.code));
    } else {
      text += rest.substr(0, nbytes);
    }
    rest.remove_prefix(nbytes);
  }
  return text + "'";
}

}  // namespace mindckpt
