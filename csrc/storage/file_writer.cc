#include "storage/file_writer.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace mindckpt {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

// What one thread copies at once to aligned memory: a quarter of it halves the page cache's speed.
constexpr uint64_t kMostStagingBytes = uint64_t{4} << 20;
// Of all writers: the rest of a save's memory is the engine's.
constexpr uint64_t kAllStagingBytes = uint64_t{16} << 20;
// The C library copies more than about this at once past the caches; what is written next had
// better be in them.
constexpr size_t kCachedCopyBytes = size_t{128} << 10;
// Copying less than this first does not pay.
constexpr uint64_t kLeastStagedBytes = uint64_t{512} << 10;
// The kernel's copy runs at full speed where source and file agree on their place in this.
constexpr uint64_t kCopyAlignment = 64;
// Below this a file is written before a second descriptor of it pays.
constexpr uint64_t kLeastDirectFile = uint64_t{16} << 20;

uint64_t staging_nbytes(int num_writers) {
  MINDCKPT_CHECK(num_writers > 0);
  const uint64_t share = kAllStagingBytes / static_cast<uint64_t>(num_writers);
  return std::clamp<uint64_t>(share / kPageBytes * kPageBytes, kPageBytes, kMostStagingBytes);
}

uint64_t total(std::span<const ByteView> pieces) {
  uint64_t nbytes = 0;
  for (const ByteView piece : pieces) nbytes += piece.size();
  return nbytes;
}

uint64_t address(ByteView bytes) { return reinterpret_cast<uintptr_t>(bytes.data()); }

// What is left of some pieces, from the front.
class PieceReader {
 public:
  explicit PieceReader(std::span<const ByteView> pieces) : pieces_(pieces.begin(), pieces.end()) {}

  // The next `nbytes`, where they lie.
  std::vector<ByteView> take(uint64_t nbytes) {
    std::vector<ByteView> taken;
    while (nbytes > 0) {
      ByteView& piece = pieces_.at(first_);
      const size_t n = static_cast<size_t>(std::min<uint64_t>(piece.size(), nbytes));
      if (n > 0) taken.push_back(piece.first(n));
      piece = piece.subspan(n);
      nbytes -= n;
      if (piece.empty()) ++first_;
    }
    return taken;
  }

 private:
  std::vector<ByteView> pieces_;
  size_t first_ = 0;
};

// Copies `pieces` together to the front of `out`.
ByteView gather(std::span<const ByteView> pieces, ByteSpan out) {
  size_t nbytes = 0;
  for (ByteView piece : pieces) {
    while (!piece.empty()) {
      const ByteView part = piece.first(std::min(piece.size(), kCachedCopyBytes));
      std::memcpy(out.data() + nbytes, part.data(), part.size());
      nbytes += part.size();
      piece = piece.subspan(part.size());
    }
  }
  return out.first(nbytes);
}

// Whether direct writes are known to be good: of local file systems that do them themselves, and
// don't fall back to the page cache (as tmpfs does) or ask a server.
bool suits_direct(int fd) {
  struct statfs status;
  if (::fstatfs(fd, &status) != 0) return false;
  const auto type = static_cast<uint64_t>(status.f_type);
  return type == EXT4_SUPER_MAGIC || type == kXfsMagic;
}

// Into blocks that are there already, direct writes are nearly twice as fast as the page cache's
// write-back; into new ones they are not. With one writer only, the write-back is what makes
// copying and storage work at the same time.
WritePolicy::Start start_of(const WriteOptions& options, int fd, uint64_t nbytes) {
  if (options.mode == WriteMode::kDirect) return WritePolicy::Start::kDirect;
  if (options.mode == WriteMode::kBuffered || nbytes < kLeastDirectFile || !suits_direct(fd)) {
    return WritePolicy::Start::kBuffered;
  }
  return options.over_old_blocks && options.num_writers > 1 ? WritePolicy::Start::kDirect
                                                            : WritePolicy::Start::kMeasured;
}

}  // namespace

// Buffers are kept for the next block, and touched before: a fresh one costs page faults.
class FileWriter::Lease {
 public:
  explicit Lease(FileWriter& writer) : writer_(writer) {
    {
      const std::lock_guard lock(writer_.staging_mutex_);
      if (!writer_.spare_staging_.empty()) {
        buffer_ = std::move(writer_.spare_staging_.back());
        writer_.spare_staging_.pop_back();
      }
    }
    buffer_.reserve(writer_.staging_nbytes_);
  }
  ~Lease() {
    const std::lock_guard lock(writer_.staging_mutex_);
    // Its room was reserved: there is one for each writer, and callers are writers.
    if (writer_.spare_staging_.size() < writer_.spare_staging_.capacity()) {
      writer_.spare_staging_.push_back(std::move(buffer_));
    }
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  ByteSpan span() const noexcept { return buffer_.span(); }

 private:
  FileWriter& writer_;
  Buffer buffer_;
};

FileWriter::FileWriter(FileDescriptor fd, std::string path, int folder, const std::string& name,
                       uint64_t nbytes, const WriteOptions& options)
    : fd_(std::move(fd)),
      path_(std::move(path)),
      options_(options),
      policy_(start_of(options, fd_.get(), nbytes)),
      staging_nbytes_(staging_nbytes(options.num_writers)),
      takes_direct_(false) {
  spare_staging_.reserve(static_cast<size_t>(options_.num_writers));
  if (policy_.start() == WritePolicy::Start::kBuffered) return;
  direct_fd_ =
      FileDescriptor(::openat(folder, name.c_str(), O_WRONLY | O_DIRECT | O_NOFOLLOW | O_CLOEXEC));
  takes_direct_ = direct_fd_.is_open();
}

void FileWriter::write_at(uint64_t offset, std::span<const ByteView> pieces) {
  const uint64_t nbytes = total(pieces);
  if (!takes_direct_.load(std::memory_order_relaxed) || policy_.next() == WriteWay::kBuffered) {
    write_buffered(offset, pieces);
    return;
  }
  const uint64_t end = offset + nbytes;
  const uint64_t pages_begin = std::min(end, (offset + kPageBytes - 1) / kPageBytes * kPageBytes);
  const uint64_t pages_end = std::max(pages_begin, end / kPageBytes * kPageBytes);
  PieceReader rest(pieces);
  write_buffered(offset, rest.take(pages_begin - offset));
  write_direct(pages_begin, rest.take(pages_end - pages_begin));
  write_buffered(pages_end, rest.take(end - pages_end));
}

// Copying from memory that lies otherwise than in the file, the kernel is at about half its speed;
// copied to staging memory first, by several threads, and written from there, the page cache gets
// its bytes as fast as it can take them.
bool FileWriter::pays_to_stage(uint64_t offset, std::span<const ByteView> pieces) const {
  if (options_.num_writers < 2 || staging_nbytes_ < kLeastStagedBytes) return false;
  uint64_t misplaced = 0;
  for (const ByteView piece : pieces) {
    if ((address(piece) - offset) % kCopyAlignment != 0) misplaced += piece.size();
    offset += piece.size();
  }
  return misplaced >= kLeastStagedBytes;
}

void FileWriter::write_buffered(uint64_t offset, std::span<const ByteView> pieces) {
  if (!pays_to_stage(offset, pieces)) {
    write_through_cache(offset, pieces);
    return;
  }
  const Lease staging(*this);
  PieceReader rest(pieces);
  for (uint64_t left = total(pieces); left > 0;) {
    // What is written next begins with a page.
    const uint64_t n = std::min(left, staging_nbytes_ - offset % kPageBytes);
    const ByteView staged = gather(rest.take(n), staging.span());
    write_through_cache(offset, {&staged, 1});
    offset += n;
    left -= n;
  }
}

void FileWriter::write_through_cache(uint64_t offset, std::span<const ByteView> pieces) {
  const uint64_t nbytes = total(pieces);
  if (nbytes == 0) return;
  std::vector<iovec> iovecs;
  iovecs.reserve(pieces.size());
  for (const ByteView piece : pieces) {
    iovecs.push_back({const_cast<std::byte*>(piece.data()), piece.size()});
  }
  const auto write = [this](const iovec* iov, int count, int64_t at) {
    return ::pwritev(fd_.get(), iov, count, at);
  };
  uint64_t written = 0;
  Clock::time_point start;
  Clock::time_point end;
  {
    // A buffered write holds the inode's lock from start to end. Waiting here instead of in the
    // kernel, where waiters spin, is worth a factor of three with two threads on ext4.
    const std::lock_guard lock(write_mutex_);
    start = Clock::now();
    try {
      written = transfer_all(write, iovecs, offset, "write", path_);
    } catch (const Error& error) {
      if (error.error_number() != EFAULT) throw;
      // No fault of the file's.
      throw Error(
          ErrorKind::kInvalidArgument,
          "the memory of a tensor can't be read: it was freed while it was saved, or before");
    }
    end = Clock::now();
  }
  if (written != nbytes) throw Error(ErrorKind::kIo, "write: no progress", path_, EIO);
  buffered_nbytes_.fetch_add(nbytes, std::memory_order_relaxed);
  report(WriteWay::kBuffered, nbytes, start, end);
  // Starts the write-back now, so that the sync at the end finds little left to do.
  if (options_.durable) {
    ::sync_file_range(fd_.get(), static_cast<off64_t>(offset), static_cast<off64_t>(nbytes),
                      SYNC_FILE_RANGE_WRITE);
  }
}

// Whole pages of the file, wherever they lie in memory.
void FileWriter::write_direct(uint64_t offset, std::span<const ByteView> pieces) {
  if (pieces.size() == 1 && address(pieces.front()) % kPageBytes == 0) {
    write_pages(offset, pieces.front());
    return;
  }
  if (pieces.empty()) return;
  const Lease staging(*this);
  PieceReader rest(pieces);
  for (uint64_t left = total(pieces); left > 0;) {
    const uint64_t n = std::min(left, staging_nbytes_);
    write_pages(offset, gather(rest.take(n), staging.span()));
    offset += n;
    left -= n;
  }
}

void FileWriter::write_pages(uint64_t offset, ByteView pages) {
  const auto start = Clock::now();
  uint64_t written = 0;
  while (written < pages.size() && takes_direct_.load(std::memory_order_relaxed)) {
    const ssize_t n = ::pwrite(direct_fd_.get(), pages.data() + written, pages.size() - written,
                               static_cast<off_t>(offset + written));
    if (n >= 0) {
      // One that stopped inside a page has come to the end of what goes this way.
      const uint64_t whole = static_cast<uint64_t>(n) / kPageBytes * kPageBytes;
      written += whole;
      if (whole == 0) break;
    } else if (errno == EINVAL || errno == EOPNOTSUPP) {
      takes_direct_.store(false, std::memory_order_relaxed);  // or wants more than whole pages
    } else if (errno == EFAULT) {
      break;  // of memory that a driver allocated: the page cache takes it all the same
    } else if (errno != EINTR) {
      throw_errno("write", path_);
    }
  }
  if (written > 0) {
    direct_nbytes_.fetch_add(written, std::memory_order_relaxed);
    report(WriteWay::kDirect, written, start, Clock::now());
  }
  if (written < pages.size()) {
    const ByteView rest = pages.subspan(static_cast<size_t>(written));
    write_through_cache(offset + written, {&rest, 1});
  }
}

void FileWriter::report(WriteWay way, uint64_t nbytes, Clock::time_point start,
                        Clock::time_point end) {
  policy_.report(way, nbytes, seconds_between(start, end), seconds_between(made_, end));
}

void FileWriter::sync(Refusals& refused) {
  const char* call = "fdatasync";
  int error = sync_fd(::fdatasync, fd_.get());
  // Not after any other failure: the kernel reports each one once, and fsync would find all well.
  if (says_not_supported(error)) {
    const int of_fdatasync = std::exchange(error, sync_fd(::fsync, fd_.get()));
    if (error == 0) refused.add(call, of_fdatasync);
    call = says_not_supported(error) ? "nothing was published, as the file system can't sync a file"
                                     : "fsync";
  }
  if (error == 0) return;
  errno = error;
  throw_errno(call, path_);
}

void FileWriter::flush() {
  if (is_on_local_file_system(fd_.get())) return;
  while (true) {
    // The close of each descriptor asks for it, and the file's lock is on this one.
    const int copy = ::fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0);
    if (copy < 0) throw_errno("dup", path_);
    if (::close(copy) == 0 || says_not_supported(errno)) return;
    if (errno != EINTR) throw_errno("close", path_);
  }
}

WriteWay FileWriter::way() const noexcept {
  return direct_nbytes_.load(std::memory_order_relaxed) >
                 buffered_nbytes_.load(std::memory_order_relaxed)
             ? WriteWay::kDirect
             : WriteWay::kBuffered;
}

}  // namespace mindckpt
