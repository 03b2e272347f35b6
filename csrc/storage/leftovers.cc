#include "storage/leftovers.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <memory>
#include <new>
#include <optional>
#include <string_view>

namespace mindckpt {

namespace {

constexpr std::string_view kSuffix = ".tmp";
constexpr std::string_view kCheckpoint = "ckpt";  // what every checkpoint's name ends with
constexpr size_t kReachDigits = 8;
constexpr size_t kDigits = 16;
constexpr size_t kMostStemBytes = 180;
constexpr time_t kQuietSeconds = 3600;
// The first digits of a file that its writer could not lock: no lock says that it is left.
constexpr uint32_t kNoLock = 0;

std::optional<uint32_t> hex_number(std::string_view digits) {
  uint32_t number = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), number, 16);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return number;
}

uint32_t random_number(const Folder& folder) {
  uint32_t number = 0;
  if (::getrandom(&number, sizeof(number), 0) != sizeof(number)) {
    throw_errno("getrandom, for a temporary file in", folder.path());
  }
  return number;
}

// How far a lock on a file in the folder reaches for certain: the same number is had by whoever
// runs on this kernel, since it was booted, and sees the folder through the same mount. Nothing
// where the system does not say. Read each time: a static would be half made in a forked child.
std::optional<uint32_t> lock_reach(const Folder& folder) noexcept {
  const FileDescriptor file(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  std::array<char, kReachDigits> boot{};
  struct stat status;
  if (!file.is_open() || ::read(file.get(), boot.data(), boot.size()) != ssize_t{kReachDigits} ||
      ::fstat(folder.fd(), &status) != 0) {
    return std::nullopt;
  }
  const auto number = hex_number({boot.data(), boot.size()});
  if (!number) return std::nullopt;
  const uint64_t device = status.st_dev;
  const uint32_t reach = *number ^ static_cast<uint32_t>(device ^ (device >> 32));
  return reach == kNoLock ? ~kNoLock : reach;
}

// Two long names that are cut to the same stem share their leftovers as well, which does no harm.
std::string stem_of(const std::string& name) {
  if (name.size() <= kMostStemBytes) return name;
  return name.substr(0, kMostStemBytes - kCheckpoint.size())
      .append(name, name.size() - kCheckpoint.size());
}

struct TemporaryName {
  std::string_view stem;
  uint32_t reach;
};

std::optional<TemporaryName> parse(std::string_view name) {
  if (!name.starts_with('.') || !name.ends_with(kSuffix)) return std::nullopt;
  name = name.substr(1, name.size() - 1 - kSuffix.size());
  const size_t dot = name.rfind('.');
  if (dot == name.npos || dot == 0 || name.size() - dot - 1 != kDigits) return std::nullopt;
  const std::string_view digits = name.substr(dot + 1);
  const bool are_ours = std::ranges::all_of(
      digits, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  if (!are_ours) return std::nullopt;
  return TemporaryName{name.substr(0, dot), *hex_number(digits.substr(0, kReachDigits))};
}

bool looks_forgotten(const struct stat& status) {
  const mode_t mode = status.st_mode & 07777;
  return status.st_uid == ::geteuid() && (mode == 0600 || mode == 0400) &&
         status.st_mtime <= ::time(nullptr) - kQuietSeconds;
}

class Sweep {
 public:
  // `stem`: of the name that is saved to; empty for none.
  Sweep(const Folder& folder, std::string_view stem)
      : folder_(folder), stem_(stem), reach_(lock_reach(folder)) {}

  // Calls removed(name, error number) for each leftover, with 0 where it was removed. Returns 0, or
  // the error number with which the listing ended.
  template <typename Removed>
  int run(const Removed& removed) const {
    // A descriptor of its own, because closedir() closes it.
    const int scan = ::openat(folder_.fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (scan < 0) return errno;
    const std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(scan), ::closedir);
    if (entries == nullptr) {
      const int error = errno;
      ::close(scan);
      return error;
    }
    while (true) {
      errno = 0;
      const dirent* const entry = ::readdir(entries.get());
      if (entry == nullptr) return errno;
      if (entry->d_type != DT_REG && entry->d_type != DT_UNKNOWN) continue;
      const auto name = parse(entry->d_name);
      if (!name || (name->stem != stem_ && !name->stem.ends_with(kCheckpoint))) continue;
      const auto error = remove_if_left(entry->d_name, *name);
      if (error) removed(entry->d_name, *error);
    }
  }

 private:
  // Nothing when it is no leftover, 0 when it was removed, else the error number.
  std::optional<int> remove_if_left(const char* path, const TemporaryName& name) const {
    // Looked at before it is opened: in a folder to which a thousand ranks save at once each would
    // open, and lock, the living files of all others.
    struct stat seen;
    if (::fstatat(folder_.fd(), path, &seen, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(seen.st_mode) ||
        (name.reach != reach_ && name.stem != stem_ && !looks_forgotten(seen))) {
      return std::nullopt;
    }
    const FileDescriptor file(
        ::openat(folder_.fd(), path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    struct stat status;
    if (!file.is_open() || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
      return std::nullopt;
    }
    // A shared lock is enough, and NFS grants no other one to a descriptor that can only read. A
    // writer that has just made the file waits for it, and then sees that the name is gone.
    const bool is_free = ::flock(file.get(), LOCK_SH | LOCK_NB) == 0;
    if (!is_free && errno == EWOULDBLOCK) return std::nullopt;
    const bool is_certain =
        is_free && name.reach != kNoLock &&
        (name.reach == reach_ || (name.stem == stem_ && is_on_local_file_system(file.get())));
    if (!is_certain && !looks_forgotten(status)) return std::nullopt;
    if (::unlinkat(folder_.fd(), path, 0) == 0) return 0;
    if (errno == ENOENT) return std::nullopt;  // somebody else removed it
    return errno;
  }

  const Folder& folder_;
  std::string_view stem_;
  std::optional<uint32_t> reach_;
};

}  // namespace

std::string temporary_name(const Folder& folder, const std::string& name, bool is_locked) {
  const std::optional<uint32_t> reach = is_locked ? lock_reach(folder) : std::nullopt;
  std::array<char, kDigits + 1> digits{};
  std::snprintf(digits.data(), digits.size(), "%08x%08x",
                reach       ? *reach
                : is_locked ? random_number(folder)
                            : kNoLock,
                random_number(folder));
  return std::string(".").append(stem_of(name)).append(".").append(digits.data()).append(kSuffix);
}

void remove_leftovers_of_saves(const Folder& folder, const std::string& name) noexcept {
  try {
    const std::string stem = stem_of(name);
    Sweep(folder, stem).run([](const char*, int) {});
  } catch (const std::bad_alloc&) {
    // The next save will do it.
  }
}

std::vector<std::string> remove_leftovers(const std::string& path) {
  const Folder folder(path);
  std::vector<std::string> names;
  std::string failed;
  int failure = 0;
  const int error = Sweep(folder, {}).run([&](const char* name, int unlink_error) {
    if (unlink_error == 0) {
      names.emplace_back(name);
    } else if (failure == 0) {
      failed = name;
      failure = unlink_error;
    }
  });
  errno = error;
  if (error != 0) throw_errno("list", path);
  errno = failure;
  if (failure != 0) throw_errno("remove a leftover", path + "/" + failed);
  std::ranges::sort(names);
  return names;
}

}  // namespace mindckpt
