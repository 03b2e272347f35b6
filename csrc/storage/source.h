#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/bytes.h"
#include "storage/fd.h"

namespace mindckpt {

// Bytes that can be read from any place. Safe from any thread.
class Source {
 public:
  virtual ~Source() = default;
  virtual uint64_t nbytes() const = 0;

  // Fills `out` with the bytes at `offset`; the range must lie inside the source.
  virtual void read_at(uint64_t offset, ByteSpan out) const = 0;
  // The same of what follows each other, into one piece after the other.
  virtual void read_pieces_at(uint64_t offset, std::span<const ByteSpan> pieces) const;

  // How many bytes are worth reading at once when only a few are wanted and more may follow.
  virtual size_t window_nbytes() const = 0;
};

// A regular file, opened for reading.
class FileSource final : public Source {
 public:
  // Throws Error(kIo), with EAGAIN while another process holds a write lease on the file.
  explicit FileSource(const std::string& path);

  uint64_t nbytes() const override { return nbytes_; }
  size_t window_nbytes() const override { return size_t{8} << 10; }
  const std::string& path() const noexcept { return path_; }
  int fd() const noexcept { return fd_.get(); }

  // Both throw Error(kIo), or Error(kFormat) when the file has become shorter meanwhile.
  void read_at(uint64_t offset, ByteSpan out) const override;
  void read_pieces_at(uint64_t offset, std::span<const ByteSpan> pieces) const override;

 private:
  std::string path_;
  FileDescriptor fd_;
  uint64_t nbytes_ = 0;
};

}  // namespace mindckpt
