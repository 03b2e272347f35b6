#pragma once

#include <string>
#include <string_view>

namespace mindckpt {

// Strict UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing over U+10FFFF.
bool is_utf8(std::string_view text);

// A name or a type from a file, as messages show it: what a damaged or hostile file calls so can be
// long, or no text, or meant for the terminal that shows it. Of at most 80 of its bytes; characters
// that control a terminal or turn the direction of writing are escaped as in Python, such as
// '\x1b', and so are quotes and backslashes.
std::string quoted(std::string_view name);

}  // namespace mindckpt
