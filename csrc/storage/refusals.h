#pragma once

#include <string>

namespace mindckpt {

// What a file system refused, and a save did without: "fchmod: Operation not permitted", one after
// the other with "; " between. For people, and for the stats.
class Refusals {
 public:
  void add(const char* call, int error_number);

  const std::string& text() const noexcept { return text_; }

 private:
  std::string text_;
};

// Whether the error number of a failed sync says that the file system has no such call for the
// file, rather than that the call was made and failed.
bool says_not_supported(int error_number) noexcept;

}  // namespace mindckpt
