#pragma once

#include <cstddef>
#include <initializer_list>
#include <string_view>

namespace mindckpt {

// What a built-in backend's last_error() answers: one line, cut where it gets long. One for each
// thread; without a destructor, as others' destructors may fail when a thread's objects are gone
// already.
struct LastError {
  char text[512];

  void clear() noexcept { text[0] = '\0'; }

  void set(std::initializer_list<std::string_view> pieces) noexcept {
    size_t length = 0;
    for (const std::string_view piece : pieces) {
      const size_t left = sizeof(text) - 1 - length;
      for (const char c : piece.substr(0, left)) text[length++] = c == '\n' || c == '\r' ? ' ' : c;
    }
    while (length > 0 && text[length - 1] == ' ') --length;
    text[length] = '\0';
  }
};

}  // namespace mindckpt
