// The raw loops that saves and loads are held to: what a program reaches that does one thing only.
// A shared library for raw_loops.py, so that they run in the process and on the very memory of what
// is measured beside them. Every function returns seconds, or minus an errno.

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kPieceBytes = size_t{4} << 20;
constexpr size_t kPageBytes = 4096;
constexpr size_t kHugePageBytes = size_t{2} << 20;
constexpr size_t kSyncEveryBytes = size_t{32} << 20;

enum Flags : int {
  kFallocate = 1,      // reserve the whole file first
  kOver = 2,           // over a file that is there already, else a new one
  kSyncFileRange = 4,  // start the write-back every 32 MiB
  kFdatasync = 8,      // durable when it returns
  kDirect = 16,        // O_DIRECT, from aligned staging memory
  kWithoutCopy = 32,   // with kDirect: from where the data lies, which is aligned
  kMapped = 64,        // through a mapping of the file
};

enum Memory : int { kResident = 0, kHugePages = 1, kSmallPages = 2 };

double elapsed(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double failure() { return -static_cast<double>(errno != 0 ? errno : EIO); }

struct Descriptor {
  explicit Descriptor(int opened) : fd(opened) {}
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int fd;
};

struct Free {
  void operator()(std::byte* memory) const noexcept { std::free(memory); }
};
using Staging = std::unique_ptr<std::byte, Free>;

// Memory that no page of is there yet.
class Fresh {
 public:
  Fresh(size_t nbytes, bool huge) : nbytes_(nbytes + kHugePageBytes) {
    memory_ = ::mmap(nullptr, nbytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) return;
    const auto address = reinterpret_cast<uintptr_t>(memory_);
    data = reinterpret_cast<std::byte*>((address + kHugePageBytes - 1) / kHugePageBytes *
                                        kHugePageBytes);
    ::madvise(data, nbytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  }
  ~Fresh() {
    if (memory_ != MAP_FAILED) ::munmap(memory_, nbytes_);
  }
  Fresh(const Fresh&) = delete;
  Fresh& operator=(const Fresh&) = delete;
  std::byte* data = nullptr;

 private:
  void* memory_;
  size_t nbytes_;
};

// A file mapped whole, shared with the page cache.
class Mapped {
 public:
  Mapped(int fd, size_t nbytes, int protection) : nbytes_(nbytes) {
    memory_ = ::mmap(nullptr, nbytes_, protection, MAP_SHARED, fd, 0);
    if (memory_ != MAP_FAILED) data = static_cast<std::byte*>(memory_);
  }
  ~Mapped() {
    if (memory_ != MAP_FAILED) ::munmap(memory_, nbytes_);
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  std::byte* data = nullptr;

 private:
  void* memory_;
  size_t nbytes_;
};

// Calls piece(begin, nbytes, worker) for all pieces, on `threads` threads. Its first errno, or 0.
template <typename Piece>
int for_each_piece(size_t nbytes, size_t piece_nbytes, int threads, const Piece& piece) {
  std::atomic<size_t> next{0};
  std::atomic<int> error{0};
  const auto work = [&](int worker) {
    while (error.load() == 0) {
      const size_t begin = next.fetch_add(piece_nbytes);
      if (begin >= nbytes) return;
      if (const int number = piece(begin, std::min(piece_nbytes, nbytes - begin), worker)) {
        error.store(number);
      }
    }
  };
  std::vector<std::jthread> helpers;
  for (int worker = 1; worker < threads; ++worker) helpers.emplace_back(work, worker);
  work(0);
  helpers.clear();
  return error.load();
}

int write_all(int fd, const std::byte* from, size_t nbytes, size_t offset) {
  while (nbytes > 0) {
    const ssize_t n = ::pwrite(fd, from, nbytes, static_cast<off_t>(offset));
    if (n <= 0) return n == 0 ? EIO : errno;
    from += n;
    offset += static_cast<size_t>(n);
    nbytes -= static_cast<size_t>(n);
  }
  return 0;
}

int read_all(int fd, std::byte* to, size_t nbytes, size_t offset) {
  while (nbytes > 0) {
    const ssize_t n = ::pread(fd, to, nbytes, static_cast<off_t>(offset));
    if (n <= 0) return n == 0 ? EIO : errno;
    to += n;
    offset += static_cast<size_t>(n);
    nbytes -= static_cast<size_t>(n);
  }
  return 0;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// Writes `nbytes` in pieces of 4 MiB on `threads` threads. `written`, unless null, receives the
// seconds until all was with the file system, before it was synced. kSyncFileRange is for one
// thread, whose pieces follow each other.
EXPORT double raw_write(const char* path, const std::byte* data, size_t nbytes, int flags,
                        int threads, double* written) {
  const bool direct = (flags & kDirect) != 0;
  const bool mapped = (flags & kMapped) != 0;
  if ((mapped && direct) || ((flags & kSyncFileRange) != 0 && threads != 1)) return -EINVAL;
  errno = 0;
  std::vector<Staging> staging;
  for (int i = 0; direct && i < threads; ++i) {
    staging.emplace_back(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, kPieceBytes)));
    std::memset(staging.back().get(), 1, kPieceBytes);
  }
  const auto start = Clock::now();
  const int mode = (mapped ? O_RDWR : O_WRONLY) | O_CREAT | O_CLOEXEC |
                   ((flags & kOver) != 0 ? 0 : O_TRUNC) | (direct ? O_DIRECT : 0);
  const Descriptor file(::open(path, mode, 0600));
  if (file.fd < 0) return failure();
  if ((flags & kFallocate) != 0 && ::fallocate(file.fd, 0, 0, static_cast<off_t>(nbytes)) != 0) {
    return failure();
  }
  std::unique_ptr<Mapped> mapping;
  if (mapped) {
    if (::ftruncate(file.fd, static_cast<off_t>(nbytes)) != 0) return failure();
    mapping = std::make_unique<Mapped>(file.fd, nbytes, PROT_READ | PROT_WRITE);
    if (mapping->data == nullptr) return failure();
  }
  size_t started = 0;
  const auto piece = [&](size_t begin, size_t length, int worker) {
    const std::byte* from = data + begin;
    if (mapped) {
      std::memcpy(mapping->data + begin, from, length);
      return 0;
    }
    size_t to_write = length;
    if (direct && (flags & kWithoutCopy) == 0) {
      std::byte* const aligned = staging[static_cast<size_t>(worker)].get();
      std::memcpy(aligned, from, length);
      from = aligned;
      to_write = (length + kPageBytes - 1) / kPageBytes * kPageBytes;
    }
    if (const int error = write_all(file.fd, from, to_write, begin)) return error;
    if ((flags & kSyncFileRange) != 0 && begin + length - started >= kSyncEveryBytes) {
      ::sync_file_range(file.fd, static_cast<off64_t>(started),
                        static_cast<off64_t>(begin + length - started), SYNC_FILE_RANGE_WRITE);
      started = begin + length;
    }
    return 0;
  };
  errno = for_each_piece(nbytes, kPieceBytes, threads, piece);
  if (errno != 0) return failure();
  mapping.reset();
  if (direct && ::ftruncate(file.fd, static_cast<off_t>(nbytes)) != 0) return failure();
  if (written != nullptr) *written = elapsed(start);
  if ((flags & kFdatasync) != 0 && ::fdatasync(file.fd) != 0) return failure();
  return elapsed(start);
}

// Reads a whole file on `threads` threads, by pread or as `flags` (kDirect, kMapped) say, into
// `resident`, which for kDirect is aligned, or into fresh memory of the kind named, which is part
// of what takes time.
EXPORT double raw_read(const char* path, size_t nbytes, int flags, int threads, int memory,
                       std::byte* resident) {
  errno = 0;
  const auto start = Clock::now();
  const Descriptor file(
      ::open(path, O_RDONLY | O_CLOEXEC | ((flags & kDirect) != 0 ? O_DIRECT : 0)));
  if (file.fd < 0) return failure();
  std::unique_ptr<Fresh> fresh;
  std::byte* to = resident;
  if (memory != kResident) {
    fresh = std::make_unique<Fresh>(nbytes, memory == kHugePages);
    to = fresh->data;
    if (to == nullptr) return failure();
  }
  std::unique_ptr<Mapped> mapping;
  if ((flags & kMapped) != 0) {
    mapping = std::make_unique<Mapped>(file.fd, nbytes, PROT_READ);
    if (mapping->data == nullptr) return failure();
  }
  errno = for_each_piece(nbytes, kPieceBytes, threads, [&](size_t begin, size_t length, int) {
    if (mapping == nullptr) return read_all(file.fd, to + begin, length, begin);
    std::memcpy(to + begin, mapping->data + begin, length);
    return 0;
  });
  if (errno != 0) return failure();
  mapping.reset();
  return elapsed(start);
}

// Copies on `threads` threads, into memory that is there.
EXPORT double raw_memcpy(std::byte* to, const std::byte* from, size_t nbytes, int threads) {
  const auto start = Clock::now();
  for_each_piece(nbytes, kPieceBytes, threads, [&](size_t begin, size_t length, int) {
    std::memcpy(to + begin, from + begin, length);
    return 0;
  });
  return elapsed(start);
}

// Makes fresh memory resident by writing to each of its pages.
EXPORT double raw_touch(size_t nbytes, int memory, int threads) {
  errno = 0;
  const auto start = Clock::now();
  const Fresh fresh(nbytes, memory == kHugePages);
  if (fresh.data == nullptr) return failure();
  for_each_piece(nbytes, kHugePageBytes, threads, [&](size_t begin, size_t length, int) {
    for (size_t at = 0; at < length; at += kPageBytes) fresh.data[begin + at] = std::byte{1};
    return 0;
  });
  return elapsed(start);
}

// Encrypts, or decrypts, `nbytes` by OpenSSL's EVP on `threads` threads, 1 MiB at a time, in cache.
EXPORT double raw_evp(const char* name, int opening, size_t nbytes, int threads) {
  constexpr size_t kMessageBytes = size_t{1} << 20;
  constexpr unsigned char kKeyAndIv[32] = {};
  const std::unique_ptr<EVP_CIPHER, decltype(&EVP_CIPHER_free)> cipher(
      EVP_CIPHER_fetch(nullptr, name, nullptr), EVP_CIPHER_free);
  if (cipher == nullptr) return -ENOTSUP;
  struct Worker {
    std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)> context{EVP_CIPHER_CTX_new(),
                                                                            EVP_CIPHER_CTX_free};
    std::vector<unsigned char> in = std::vector<unsigned char>(kMessageBytes, 7);
    std::vector<unsigned char> out = std::vector<unsigned char>(kMessageBytes);
  };
  std::vector<Worker> workers(static_cast<size_t>(threads));
  const auto start = Clock::now();
  const int error =
      for_each_piece(nbytes, kMessageBytes, threads, [&](size_t, size_t length, int worker) {
        Worker& own = workers[static_cast<size_t>(worker)];
        EVP_CIPHER_CTX* const context = own.context.get();
        int written = 0;
        const bool done = EVP_CipherInit_ex2(context, cipher.get(), kKeyAndIv, kKeyAndIv,
                                             opening == 0, nullptr) == 1 &&
                          EVP_CIPHER_CTX_set_padding(context, 0) == 1 &&
                          EVP_CipherUpdate(context, own.out.data(), &written, own.in.data(),
                                           static_cast<int>(length)) == 1;
        // A tag is computed; opening would say that it is another one, which there is none of.
        unsigned char rest[EVP_MAX_BLOCK_LENGTH];
        if (opening == 0 && EVP_CipherFinal_ex(context, rest, &written) != 1) return EIO;
        return done ? 0 : EIO;
      });
  return error != 0 ? -static_cast<double>(error) : elapsed(start);
}
