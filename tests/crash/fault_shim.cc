// A library for LD_PRELOAD that stands between the engine and the system. It counts the calls that
// the engine makes, and has the Nth one fail, stop short, or be where the process is killed. It can
// also keep a log of them, or tell another process of each before it is made.
//
// Which calls are the engine's is told by the caller's address: it lies in the compiled module. For
// threads and memory it may also lie in the C++ library, which makes those calls for the engine.
// Calls of Python and of other libraries pass through. tests/crash/shim.py is the other side.

// Both names of each call are defined here: open() and open64().
#undef _FILE_OFFSET_BITS

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#define EXPORTED extern "C" __attribute__((visibility("default")))
#define CALLER __builtin_return_address(0)
// The C library's function of this name, or that of the next library in the way.
#define NEXT(name) \
  static const auto next = reinterpret_cast<decltype(&::name)>(::dlsym(RTLD_NEXT, #name))

namespace {

// Values are those of shim.py.
enum Action : int {
  kNone = 0,
  kFail = 1,         // the call fails with an errno, and is not made
  kFailFromNow = 2,  // so does every later one of its name
  kShort = 3,        // a transfer moves half of its bytes; other calls are made as usual
  kEnd = 4,          // a transfer moves nothing and returns 0; other calls are made as usual
  kKill = 5,         // the process is killed before the call
  kCommit = 6,  // the file system of a descriptor is synced before the call, or before each one
};

// What is counted, as bits.
enum Kind : unsigned { kFile = 1, kThread = 2, kMemory = 4 };

// Where a shared object is mapped.
struct Range {
  uintptr_t begin = 0;
  uintptr_t end = 0;

  bool has(const void* address) const {
    const auto at = reinterpret_cast<uintptr_t>(address);
    return begin <= at && at < end;
  }
};

Range range_of_library(const char* part_of_name) {
  struct Search {
    const char* part_of_name;
    Range found;
  } search{part_of_name, {}};
  ::dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto& sought = *static_cast<Search*>(data);
        if (std::strstr(info->dlpi_name, sought.part_of_name) == nullptr) return 0;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const ElfW(Phdr) & header = info->dlpi_phdr[i];
          if (header.p_type != PT_LOAD) continue;
          const uintptr_t begin = info->dlpi_addr + header.p_vaddr;
          Range& found = sought.found;
          found.begin = found.begin == 0 ? begin : std::min(found.begin, begin);
          found.end = std::max<uintptr_t>(found.end, begin + header.p_memsz);
        }
        return 1;
      },
      &search);
  return search.found;
}

struct Faults {
  std::mutex mutex;
  std::atomic<bool> armed{false};
  Range engine;
  Range cxx_library;
  unsigned kinds = 0;
  int64_t nth = 0;
  Action action = kNone;
  int error = 0;
  int64_t count = 0;
  std::string failing;  // with kFailFromNow, once the Nth call came: its name
  int told_fd = -1;
  bool is_syncing = true;
  bool is_writing_back = true;
  bool is_logging = false;
  std::string log;
};

Faults faults;

// Whether this thread is at work here: what it calls then is nobody's.
thread_local bool is_inside = false;

std::string path_of(int fd) {
  if (fd == AT_FDCWD) return "";
  char link[40];
  char path[PATH_MAX];
  std::snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  const ssize_t n = ::readlink(link, path, sizeof(path));
  return n < 0 ? "?" : std::string(path, static_cast<size_t>(n));
}

std::string path_at(int folder, const char* path) {
  if (path[0] == '/' || folder == AT_FDCWD) return path;
  return path_of(folder) + "/" + path;
}

[[noreturn]] void die() {
  ::kill(::getpid(), SIGKILL);
  while (true) ::pause();
}

// One call of the engine, or of somebody else.
class Call {
 public:
  // `describe` returns what the log says of the call besides its name.
  template <typename Describe>
  Call(const void* caller, Kind kind, const char* name, const Describe& describe) {
    if (!faults.armed.load(std::memory_order_acquire) || is_inside) return;
    const bool is_ours = faults.engine.has(caller) ||
                         ((kind & (kThread | kMemory)) != 0 && faults.cxx_library.has(caller));
    if (!is_ours || (faults.kinds & kind) == 0) return;
    const int saved_errno = errno;
    const std::lock_guard lock(faults.mutex);
    is_inside = true;
    const bool is_nth = ++faults.count == faults.nth;
    if (faults.is_logging) {
      faults.log.append(name).append(" ").append(describe()).append("\n");
    }
    if (faults.told_fd >= 0) tell(name);
    if (faults.action == kCommit && (is_nth || faults.nth == 0)) ::syncfs(faults.error);
    if (is_nth) {
      if (faults.action == kKill) die();
      if (faults.action == kFailFromNow) faults.failing = name;
      action_ = faults.action;
    } else if (faults.failing == name) {
      action_ = kFail;
    }
    is_inside = false;
    errno = saved_errno;
  }

  bool fails() const {
    if (action_ != kFail && action_ != kFailFromNow) return false;
    errno = faults.error;
    return true;
  }
  bool stops_short() const { return action_ == kShort; }
  bool moves_nothing() const { return action_ == kEnd; }

 private:
  // Waits until whoever records has put this call among what it recorded.
  static void tell(const char* name) {
    char answer;
    if (::write(faults.told_fd, name, std::strlen(name)) < 0 ||
        ::read(faults.told_fd, &answer, 1) != 1) {
      die();
    }
  }

  Action action_ = kNone;
};

std::string range_text(int fd, int64_t offset, uint64_t nbytes) {
  return path_of(fd) + " " + std::to_string(offset) + " " + std::to_string(nbytes);
}

std::string command_text(int fd, int command, const void* argument) {
  return path_of(fd) + " " + std::to_string(command) + " " +
         std::to_string(reinterpret_cast<intptr_t>(argument));
}

uint64_t total(const iovec* pieces, int count) {
  uint64_t nbytes = 0;
  for (int i = 0; i < count; ++i) nbytes += pieces[i].iov_len;
  return nbytes;
}

// The front half of some pieces. Of a direct transfer, whole pages: all that a file system takes.
std::vector<iovec> front_half(int fd, const iovec* pieces, int count) {
  constexpr uint64_t kPageBytes = 4096;
  uint64_t left = (total(pieces, count) + 1) / 2;
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags >= 0 && (flags & O_DIRECT) != 0) {
    left = (left + kPageBytes - 1) / kPageBytes * kPageBytes;
  }
  std::vector<iovec> front;
  for (int i = 0; i < count && left > 0; ++i) {
    const size_t n = static_cast<size_t>(std::min<uint64_t>(left, pieces[i].iov_len));
    front.push_back({pieces[i].iov_base, n});
    left -= n;
  }
  return front;
}

template <typename Next>
ssize_t transfer(const void* caller, const char* name, int fd, const iovec* pieces, int count,
                 int64_t offset, const Next& next) {
  const Call call(caller, kFile, name,
                  [&] { return range_text(fd, offset, total(pieces, count)); });
  if (call.fails()) return -1;
  if (call.moves_nothing()) return 0;
  if (call.stops_short()) {
    const std::vector<iovec> front = front_half(fd, pieces, count);
    return next(front.data(), static_cast<int>(front.size()));
  }
  return next(pieces, count);
}

mode_t mode_argument(int flags, va_list arguments) {
  const bool has_mode = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
  return has_mode ? va_arg(arguments, mode_t) : 0;
}

}  // namespace

// ---- for the tests

// Starts to count, from 0, the calls of the library whose name contains `engine`. `error` is the
// errno to fail with; for kCommit the descriptor, and with `nth` 0 each call is meant. Returns 0,
// or -1 when there is no such library in the process.
EXPORTED int faults_arm(const char* engine, unsigned kinds, int64_t nth, int action, int error) {
  const std::lock_guard lock(faults.mutex);
  faults.engine = range_of_library(engine);
  faults.cxx_library = range_of_library("libstdc++.so");
  if (faults.engine.end == 0) return -1;
  faults.kinds = kinds;
  faults.nth = nth;
  faults.action = static_cast<Action>(action);
  faults.error = error;
  faults.count = 0;
  faults.failing.clear();
  faults.log.clear();
  faults.armed.store(true, std::memory_order_release);
  return 0;
}

// Stops counting; returns how many calls there were.
EXPORTED int64_t faults_disarm() {
  faults.armed.store(false, std::memory_order_release);
  const std::lock_guard lock(faults.mutex);
  return faults.count;
}

// From the next faults_arm on: whether calls are logged, a line each: the name, and what it is
// about.
EXPORTED void faults_keep_log(int is_logging) { faults.is_logging = is_logging != 0; }

// The log since the last faults_arm; valid until the next one.
EXPORTED const char* faults_log() {
  const std::lock_guard lock(faults.mutex);
  return faults.log.c_str();
}

// Writes each call's name to `fd` and waits for a byte from it before the call is made; -1: no
// more.
EXPORTED void faults_tell(int fd) { faults.told_fd = fd; }

// Whether fsync and fdatasync are passed on, or only said to have gone well: they take most of the
// time, and make no difference to who can't cut the power. And the same of sync_file_range, which
// promises nothing.
EXPORTED void faults_sync(int is_syncing, int is_writing_back) {
  faults.is_syncing = is_syncing != 0;
  faults.is_writing_back = is_writing_back != 0;
}

// ---- the calls

#define DEFINE_OPEN(name)                                                      \
  EXPORTED int name(const char* path, int flags, ...) {                        \
    va_list arguments;                                                         \
    va_start(arguments, flags);                                                \
    const mode_t mode = mode_argument(flags, arguments);                       \
    va_end(arguments);                                                         \
    NEXT(name);                                                                \
    const Call call(CALLER, kFile, "open", [&] { return std::string(path); }); \
    return call.fails() ? -1 : next(path, flags, mode);                        \
  }
DEFINE_OPEN(open)
DEFINE_OPEN(open64)

#define DEFINE_OPENAT(name)                                                          \
  EXPORTED int name(int folder, const char* path, int flags, ...) {                  \
    va_list arguments;                                                               \
    va_start(arguments, flags);                                                      \
    const mode_t mode = mode_argument(flags, arguments);                             \
    va_end(arguments);                                                               \
    NEXT(name);                                                                      \
    const Call call(CALLER, kFile, "openat", [&] { return path_at(folder, path); }); \
    return call.fails() ? -1 : next(folder, path, flags, mode);                      \
  }
DEFINE_OPENAT(openat)
DEFINE_OPENAT(openat64)

EXPORTED int close(int fd) {
  NEXT(close);
  const Call call(CALLER, kFile, "close", [&] { return path_of(fd); });
  const int result = next(fd);  // the descriptor is gone even where close() fails
  return call.fails() ? -1 : result;
}

EXPORTED ssize_t write(int fd, const void* data, size_t nbytes) {
  NEXT(write);
  const iovec piece{const_cast<void*>(data), nbytes};
  return transfer(CALLER, "write", fd, &piece, 1, -1,
                  [&](const iovec* iov, int) { return next(fd, iov->iov_base, iov->iov_len); });
}

EXPORTED ssize_t read(int fd, void* data, size_t nbytes) {
  NEXT(read);
  const iovec piece{data, nbytes};
  return transfer(CALLER, "read", fd, &piece, 1, -1,
                  [&](const iovec* iov, int) { return next(fd, iov->iov_base, iov->iov_len); });
}

#define DEFINE_ONE_PIECE(function, name, data_type, offset_type)                         \
  EXPORTED ssize_t function(int fd, data_type data, size_t nbytes, offset_type offset) { \
    NEXT(function);                                                                      \
    const iovec piece{const_cast<void*>(data), nbytes};                                  \
    return transfer(CALLER, name, fd, &piece, 1, offset, [&](const iovec* iov, int) {    \
      return next(fd, iov->iov_base, iov->iov_len, offset);                              \
    });                                                                                  \
  }
DEFINE_ONE_PIECE(pwrite, "pwrite", const void*, off_t)
DEFINE_ONE_PIECE(pwrite64, "pwrite", const void*, off64_t)
DEFINE_ONE_PIECE(pread, "pread", void*, off_t)
DEFINE_ONE_PIECE(pread64, "pread", void*, off64_t)

#define DEFINE_PIECES(function, name, offset_type)                                        \
  EXPORTED ssize_t function(int fd, const iovec* pieces, int count, offset_type offset) { \
    NEXT(function);                                                                       \
    return transfer(CALLER, name, fd, pieces, count, offset,                              \
                    [&](const iovec* iov, int n) { return next(fd, iov, n, offset); });   \
  }
DEFINE_PIECES(pwritev, "pwritev", off_t)
DEFINE_PIECES(pwritev64, "pwritev", off64_t)
DEFINE_PIECES(preadv, "preadv", off_t)
DEFINE_PIECES(preadv64, "preadv", off64_t)

#define DEFINE_PIECES_2(function, name, offset_type)                                           \
  EXPORTED ssize_t function(int fd, const iovec* pieces, int count, offset_type offset,        \
                            int flags) {                                                       \
    NEXT(function);                                                                            \
    return transfer(CALLER, name, fd, pieces, count, offset,                                   \
                    [&](const iovec* iov, int n) { return next(fd, iov, n, offset, flags); }); \
  }
DEFINE_PIECES_2(pwritev2, "pwritev2", off_t)
DEFINE_PIECES_2(pwritev64v2, "pwritev2", off64_t)
DEFINE_PIECES_2(preadv2, "preadv2", off_t)
DEFINE_PIECES_2(preadv64v2, "preadv2", off64_t)

EXPORTED int fsync(int fd) {
  NEXT(fsync);
  const Call call(CALLER, kFile, "fsync", [&] { return path_of(fd); });
  if (call.fails()) return -1;
  return faults.is_syncing ? next(fd) : 0;
}

EXPORTED int fdatasync(int fd) {
  NEXT(fdatasync);
  const Call call(CALLER, kFile, "fdatasync", [&] { return path_of(fd); });
  if (call.fails()) return -1;
  return faults.is_syncing ? next(fd) : 0;
}

EXPORTED int sync_file_range(int fd, off64_t offset, off64_t nbytes, unsigned flags) {
  NEXT(sync_file_range);
  const Call call(CALLER, kFile, "sync_file_range",
                  [&] { return range_text(fd, offset, static_cast<uint64_t>(nbytes)); });
  if (call.fails()) return -1;
  return faults.is_writing_back ? next(fd, offset, nbytes, flags) : 0;
}

#define DEFINE_FALLOCATE(name, offset_type)                                                 \
  EXPORTED int name(int fd, int mode, offset_type offset, offset_type nbytes) {             \
    NEXT(name);                                                                             \
    const Call call(CALLER, kFile, "fallocate",                                             \
                    [&] { return range_text(fd, offset, static_cast<uint64_t>(nbytes)); }); \
    return call.fails() ? -1 : next(fd, mode, offset, nbytes);                              \
  }
DEFINE_FALLOCATE(fallocate, off_t)
DEFINE_FALLOCATE(fallocate64, off64_t)

#define DEFINE_FTRUNCATE(name, offset_type)                                   \
  EXPORTED int name(int fd, offset_type nbytes) noexcept {                    \
    NEXT(name);                                                               \
    const Call call(CALLER, kFile, "ftruncate", [&] { return path_of(fd); }); \
    return call.fails() ? -1 : next(fd, nbytes);                              \
  }
DEFINE_FTRUNCATE(ftruncate, off_t)
DEFINE_FTRUNCATE(ftruncate64, off64_t)

EXPORTED int fchmod(int fd, mode_t mode) noexcept {
  NEXT(fchmod);
  const Call call(CALLER, kFile, "fchmod", [&] { return path_of(fd); });
  return call.fails() ? -1 : next(fd, mode);
}

#define DEFINE_FSTAT(name, status_type)                                   \
  EXPORTED int name(int fd, status_type* status) noexcept {               \
    NEXT(name);                                                           \
    const Call call(CALLER, kFile, "fstat", [&] { return path_of(fd); }); \
    return call.fails() ? -1 : next(fd, status);                          \
  }
DEFINE_FSTAT(fstat, struct stat)
DEFINE_FSTAT(fstat64, struct stat64)

#define DEFINE_LSTAT(name, status_type)                                         \
  EXPORTED int name(const char* path, status_type* status) noexcept {           \
    NEXT(name);                                                                 \
    const Call call(CALLER, kFile, "lstat", [&] { return std::string(path); }); \
    return call.fails() ? -1 : next(path, status);                              \
  }
DEFINE_LSTAT(lstat, struct stat)
DEFINE_LSTAT(lstat64, struct stat64)

#define DEFINE_FSTATAT(name, status_type)                                                    \
  EXPORTED int name(int folder, const char* path, status_type* status, int flags) noexcept { \
    NEXT(name);                                                                              \
    const Call call(CALLER, kFile, "fstatat", [&] { return path_at(folder, path); });        \
    return call.fails() ? -1 : next(folder, path, status, flags);                            \
  }
DEFINE_FSTATAT(fstatat, struct stat)
DEFINE_FSTATAT(fstatat64, struct stat64)

#define DEFINE_FSTATFS(name, status_type)                                   \
  EXPORTED int name(int fd, status_type* status) noexcept {                 \
    NEXT(name);                                                             \
    const Call call(CALLER, kFile, "fstatfs", [&] { return path_of(fd); }); \
    return call.fails() ? -1 : next(fd, status);                            \
  }
DEFINE_FSTATFS(fstatfs, struct statfs)
DEFINE_FSTATFS(fstatfs64, struct statfs64)

EXPORTED ssize_t flistxattr(int fd, char* names, size_t nbytes) noexcept {
  NEXT(flistxattr);
  const Call call(CALLER, kFile, "flistxattr", [&] { return path_of(fd); });
  return call.fails() ? -1 : next(fd, names, nbytes);
}

EXPORTED int flock(int fd, int operation) noexcept {
  NEXT(flock);
  const Call call(CALLER, kFile, "flock", [&] { return path_of(fd); });
  return call.fails() ? -1 : next(fd, operation);
}

// Each command has at most one argument, an integer or a pointer, which pass alike.
#define DEFINE_FCNTL(name)                                                                        \
  EXPORTED int name(int fd, int command, ...) {                                                   \
    va_list arguments;                                                                            \
    va_start(arguments, command);                                                                 \
    void* const argument = va_arg(arguments, void*);                                              \
    va_end(arguments);                                                                            \
    NEXT(name);                                                                                   \
    const Call call(CALLER, kFile, "fcntl", [&] { return command_text(fd, command, argument); }); \
    return call.fails() ? -1 : next(fd, command, argument);                                       \
  }
DEFINE_FCNTL(fcntl)
DEFINE_FCNTL(fcntl64)

EXPORTED int renameat(int from_folder, const char* from, int to_folder, const char* to) noexcept {
  NEXT(renameat);
  const Call call(CALLER, kFile, "renameat",
                  [&] { return path_at(from_folder, from) + " " + path_at(to_folder, to); });
  return call.fails() ? -1 : next(from_folder, from, to_folder, to);
}

EXPORTED int renameat2(int from_folder, const char* from, int to_folder, const char* to,
                       unsigned flags) noexcept {
  NEXT(renameat2);
  const Call call(CALLER, kFile, "renameat2",
                  [&] { return path_at(from_folder, from) + " " + path_at(to_folder, to); });
  return call.fails() ? -1 : next(from_folder, from, to_folder, to, flags);
}

EXPORTED int unlinkat(int folder, const char* path, int flags) noexcept {
  NEXT(unlinkat);
  const Call call(CALLER, kFile, "unlinkat", [&] { return path_at(folder, path); });
  return call.fails() ? -1 : next(folder, path, flags);
}

EXPORTED int unlink(const char* path) noexcept {
  NEXT(unlink);
  const Call call(CALLER, kFile, "unlink", [&] { return std::string(path); });
  return call.fails() ? -1 : next(path);
}

EXPORTED DIR* fdopendir(int fd) {
  NEXT(fdopendir);
  const Call call(CALLER, kFile, "fdopendir", [&] { return path_of(fd); });
  return call.fails() ? nullptr : next(fd);
}

#define DEFINE_READDIR(name, entry_type)                                     \
  EXPORTED entry_type* name(DIR* folder) {                                   \
    NEXT(name);                                                              \
    const Call call(CALLER, kFile, "readdir", [] { return std::string(); }); \
    return call.fails() ? nullptr : next(folder);                            \
  }
DEFINE_READDIR(readdir, struct dirent)
DEFINE_READDIR(readdir64, struct dirent64)

EXPORTED ssize_t getrandom(void* bytes, size_t nbytes, unsigned flags) {
  NEXT(getrandom);
  const Call call(CALLER, kFile, "getrandom", [&] { return std::to_string(nbytes); });
  return call.fails() ? -1 : next(bytes, nbytes, flags);
}

#define DEFINE_MMAP(name, offset_type)                                                      \
  EXPORTED void* name(void* at, size_t nbytes, int protection, int flags, int fd,           \
                      offset_type offset) noexcept {                                        \
    NEXT(name);                                                                             \
    const Call call(CALLER, (flags & MAP_ANONYMOUS) != 0 ? kMemory : kFile, "mmap",         \
                    [&] { return fd < 0 ? "anonymous" : range_text(fd, offset, nbytes); }); \
    return call.fails() ? MAP_FAILED : next(at, nbytes, protection, flags, fd, offset);     \
  }
DEFINE_MMAP(mmap, off_t)
DEFINE_MMAP(mmap64, off64_t)

EXPORTED int madvise(void* at, size_t nbytes, int advice) noexcept {
  NEXT(madvise);
  const Call call(CALLER, kMemory, "madvise", [&] { return std::to_string(advice); });
  return call.fails() ? -1 : next(at, nbytes, advice);
}

EXPORTED int posix_memalign(void** memory, size_t alignment, size_t nbytes) noexcept {
  NEXT(posix_memalign);
  const Call call(CALLER, kMemory, "posix_memalign", [&] { return std::to_string(nbytes); });
  return call.fails() ? ENOMEM : next(memory, alignment, nbytes);
}

EXPORTED void* aligned_alloc(size_t alignment, size_t nbytes) noexcept {
  NEXT(aligned_alloc);
  const Call call(CALLER, kMemory, "aligned_alloc", [&] { return std::to_string(nbytes); });
  return call.fails() ? nullptr : next(alignment, nbytes);
}

EXPORTED int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                            void* (*body)(void*), void* argument) noexcept {
  NEXT(pthread_create);
  const Call call(CALLER, kThread, "pthread_create", [] { return std::string(); });
  return call.fails() ? errno : next(thread, attributes, body, argument);
}

// The C++ library's memory comes from malloc, as here, and goes back by its own `operator delete`.
__attribute__((visibility("default"))) void* operator new(size_t nbytes) {
  const Call call(CALLER, kMemory, "new", [&] { return std::to_string(nbytes); });
  void* const memory = call.fails() ? nullptr : std::malloc(std::max<size_t>(nbytes, 1));
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
