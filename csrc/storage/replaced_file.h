#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace mindckpt {

// A file whose name is about to be given to another one. The last name's going frees a file's pages
// and blocks, 0.4 s for 2 GB in the page cache, inside the rename; while this holds the file, that
// waits.
//
// It is held by a mapping of its first page rather than by a descriptor, because a mapping can be
// kept from forked children (MADV_DONTFORK): the space is free once this process lets go.
class ReplacedFile {
 public:
  // Holds the file `name` in `folder`, where that pays: a regular one of at least kWorthBytes that
  // can be read and has no other name. Else, and on any failure, nothing is held.
  ReplacedFile(int folder, const std::string& name) noexcept;
  ~ReplacedFile();  // lets go here and now
  ReplacedFile(const ReplacedFile&) = delete;
  ReplacedFile& operator=(const ReplacedFile&) = delete;

  bool is_held() const noexcept { return page_ != nullptr; }

  // Lets go on a thread of its own, which touches nothing else of this process and ends with that;
  // here, where no thread can be had.
  void release_in_background() noexcept;

  // Whether files of this process are being freed in the background: their space is not free yet.
  static bool releases_pending() noexcept;

  static constexpr uint64_t kWorthBytes = uint64_t{64} << 20;

 private:
  void* page_ = nullptr;
};

}  // namespace mindckpt
