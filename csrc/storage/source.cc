#include "storage/source.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <vector>

#include "base/error.h"

namespace mindckpt {

void Source::read_pieces_at(uint64_t offset, std::span<const ByteSpan> pieces) const {
  for (const ByteSpan piece : pieces) {
    read_at(offset, piece);
    offset += piece.size();
  }
}

FileSource::FileSource(const std::string& path)
    : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (!fd_.is_open()) {
    // O_NONBLOCK does not wait for a lease either, such as a server's for one of its clients.
    const bool is_leased = errno == EAGAIN;
    throw_errno(is_leased ? "open, as another process holds a lease on the file" : "open", path_);
  }
  struct stat status;
  if (::fstat(fd_.get(), &status) != 0) throw_errno("fstat", path_);
  if (!S_ISREG(status.st_mode)) {  // O_NONBLOCK: a FIFO must not make the open hang before this
    errno = S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
    throw_errno("not a regular file", path_);
  }
  nbytes_ = static_cast<uint64_t>(status.st_size);
}

void FileSource::read_at(uint64_t offset, ByteSpan out) const { read_pieces_at(offset, {&out, 1}); }

void FileSource::read_pieces_at(uint64_t offset, std::span<const ByteSpan> pieces) const {
  std::vector<iovec> iovecs;
  iovecs.reserve(pieces.size());
  uint64_t wanted = 0;
  for (const ByteSpan piece : pieces) {
    iovecs.push_back({piece.data(), piece.size()});
    wanted += piece.size();
  }
  const auto read = [this](const iovec* iov, int count, int64_t at) {
    return ::preadv(fd_.get(), iov, count, at);
  };
  if (transfer_all(read, iovecs, offset, "pread", path_) != wanted) {
    throw Error(ErrorKind::kFormat, "the file became shorter while it was read", path_);
  }
}

}  // namespace mindckpt
