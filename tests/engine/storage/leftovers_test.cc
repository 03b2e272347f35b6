#include "storage/leftovers.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <optional>

#include "storage/atomic_file.h"
#include "support/child.h"
#include "support/errors.h"
#include "support/system_calls.h"
#include "support/temporary_folder.h"

namespace mindckpt {
namespace {

using test::error_of;
using test::Intercepted;
using test::Refused;
using test::SystemCall;
using test::write_file;
using Names = std::vector<std::string>;

struct Fixture {
  test::TemporaryFolder folder;

  void save(const std::string& name) const {
    AtomicFile file(folder.path(name), 5, {});
    const ByteView piece = as_bytes("bytes");
    file.write_at(0, {&piece, 1});
    file.commit();
  }

  // What processes that are killed at the same time, each in a save to one of these, leave.
  void leave(const Names& names) const {
    std::vector<pid_t> children;
    for (const std::string& name : names) {
      children.push_back(::fork());
      REQUIRE(children.back() >= 0);
      if (children.back() == 0) {
        AtomicFile file(folder.path(name), 5, {});
        ::raise(SIGSTOP);
      }
      REQUIRE(::waitpid(children.back(), nullptr, WUNTRACED) == children.back());
    }
    for (const pid_t child : children) {
      ::kill(child, SIGKILL);
      REQUIRE(::waitpid(child, nullptr, 0) == child);
    }
  }

  // A file as another machine would leave it, last written so many seconds ago: the digits are not
  // this machine's.
  std::string leave_from_elsewhere(const std::string& name, time_t seconds_ago,
                                   mode_t mode = 0600) const {
    const std::string ours = temporary_name(Folder(folder.path()), name);
    std::string path = folder.path(ours);
    char& digit = path.at(path.size() - 20);
    digit = digit == '0' ? '1' : '0';
    write_file(path, "from elsewhere");
    REQUIRE(::chmod(path.c_str(), mode) == 0);
    const time_t then = ::time(nullptr) - seconds_ago;
    const timespec times[] = {{then, 0}, {then, 0}};
    REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
    return std::filesystem::path(path).filename();
  }
};

constexpr time_t kHour = 3600;

TEST_CASE_FIXTURE(Fixture, "a save removes what killed saves to other names left in its folder") {
  leave({"step-1.ckpt", "step-2.ckpt", "other_ckpt"});
  REQUIRE(folder.names().size() == 3);
  save("step-3.ckpt");
  CHECK(folder.names() == Names{"step-3.ckpt"});
}

TEST_CASE_FIXTURE(Fixture, "on request leftovers are removed and named") {
  leave({"b.ckpt", "a.ckpt"});
  write_file(folder.path("a.ckpt"), "published");
  Names left = folder.names();
  std::erase(left, "a.ckpt");
  REQUIRE(left.size() == 2);
  CHECK(remove_leftovers(folder.path()) == left);
  CHECK(folder.names() == Names{"a.ckpt"});
  CHECK(remove_leftovers(folder.path()).empty());
}

TEST_CASE_FIXTURE(Fixture, "a leftover of a long name is found by saves to other names") {
  leave({std::string(250, 'x') + ".ckpt"});
  REQUIRE(folder.names().size() == 1);
  save("y.ckpt");
  CHECK(folder.names() == Names{"y.ckpt"});
}

TEST_CASE_FIXTURE(Fixture, "files that are being written are no leftovers of other names either") {
  const AtomicFile here(folder.path("a.ckpt"), 5, {});
  const Names names = folder.names();
  // By another process as well, which forks no lock: it opens the files anew.
  CHECK(test::succeeds_in_child([&] { return remove_leftovers(folder.path()).empty(); }));
  CHECK(remove_leftovers(folder.path()).empty());
  save("b.ckpt");
  CHECK(folder.names() == Names{names[0], "b.ckpt"});
}

TEST_CASE_FIXTURE(Fixture,
                  "a file of another machine is a leftover after an hour without a write") {
  const std::string living = leave_from_elsewhere("a.ckpt", kHour - 60);
  const std::string dead = leave_from_elsewhere("a.ckpt", kHour + 60);
  const std::string unpublished = leave_from_elsewhere("b.ckpt", kHour + 60, 0400);
  Names removed{dead, unpublished};
  std::ranges::sort(removed);
  CHECK(remove_leftovers(folder.path()) == removed);
  CHECK(folder.names() == Names{living});
  save("b.ckpt");
  CHECK(std::filesystem::exists(folder.path(living)));
}

TEST_CASE_FIXTURE(Fixture, "a file of another machine that is locked is no leftover ever") {
  const std::string name = leave_from_elsewhere("a.ckpt", 100 * kHour);
  const FileDescriptor writer(::open(folder.path(name).c_str(), O_RDWR | O_CLOEXEC));
  REQUIRE(::flock(writer.get(), LOCK_EX) == 0);
  CHECK(remove_leftovers(folder.path()).empty());
}

TEST_CASE_FIXTURE(Fixture, "on a network a file of the same name is another machine's as well") {
  const std::string living = leave_from_elsewhere("a.ckpt", 60);
  {
    const Refused network(SystemCall::kFstatfs, EIO);
    save("a.ckpt");
  }
  CHECK(folder.names() == Names{living, "a.ckpt"});
  // A local disk has no other writers.
  const FileDescriptor fd(::open(folder.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!is_on_local_file_system(fd.get())) return;
  save("a.ckpt");
  CHECK(folder.names() == Names{"a.ckpt"});
}

TEST_CASE_FIXTURE(Fixture, "where there are no locks only age tells") {
  leave({"a.ckpt"});
  const std::string living = folder.names().at(0);
  const std::string dead = leave_from_elsewhere("a.ckpt", kHour + 60);
  for (const int error : {ENOSYS, EOPNOTSUPP, ENOLCK}) {  // the last is NFS's, without its daemon
    const Refused refused(SystemCall::kFlock, error);
    remove_leftovers(folder.path());
    CHECK(folder.names() == Names{living});
  }
  // One that somebody else has says that the file is in use, however old it is.
  const std::string held = leave_from_elsewhere("a.ckpt", kHour + 60);
  const Refused refused(SystemCall::kFlock, EWOULDBLOCK);
  CHECK(remove_leftovers(folder.path()).empty());
  CHECK(std::filesystem::exists(folder.path(held)));
}

TEST_CASE_FIXTURE(Fixture,
                  "a writer that got no lock is not taken for dead by who saves the same") {
  AtomicFile::Options options;
  std::optional<AtomicFile> writer;
  {
    const Refused refused(SystemCall::kFlock, ENOLCK);
    writer.emplace(folder.path("a.ckpt"), 5, options);
  }
  const Names names = folder.names();
  save("a.ckpt");
  CHECK(folder.names() == Names{names.at(0), "a.ckpt"});
  writer->commit();
  CHECK(folder.names() == Names{"a.ckpt"});
}

TEST_CASE_FIXTURE(Fixture, "a writer that got no lock is not taken for dead by who gets one") {
  std::optional<AtomicFile> writer;
  {
    const Refused refused(SystemCall::kFlock, ENOLCK);
    writer.emplace(folder.path("a.ckpt"), 5, AtomicFile::Options());
  }
  const Names names = folder.names();
  CHECK(remove_leftovers(folder.path()).empty());
  save("b.ckpt");
  CHECK(folder.names() == Names{names.at(0), "b.ckpt"});
  writer->commit();
  CHECK(folder.names() == Names{"a.ckpt", "b.ckpt"});
}

TEST_CASE_FIXTURE(Fixture, "a user's own file is not taken for a leftover by chance") {
  const std::string digits = "0123456789abcdef";
  const Names precious = {
      ".x.ckpt." + digits + ".tmp",  // others can read it
      ".notes." + digits + ".tmp",   // no checkpoint's name
      ".ckpt.tmp",
      "." + digits + ".tmp",
      ".." + digits + ".tmp",
      ".x.ckpt." + digits.substr(1) + ".tmp",
      ".x.ckpt." + digits + "0.tmp",
      ".x.ckpt.0123456789ABCDEF.tmp",
      ".x.ckpt.0x23456789abcdef.tmp",
      ".x.ckpt." + digits + ".tmq",
      "x.ckpt." + digits + ".tmp",
  };
  for (const std::string& name : precious) {
    write_file(folder.path(name), "precious");
    const bool is_open = name == precious[0];
    REQUIRE(::chmod(folder.path(name).c_str(), is_open ? 0644 : 0600) == 0);
    const timespec times[] = {{1, 0}, {1, 0}};
    REQUIRE(::utimensat(AT_FDCWD, folder.path(name).c_str(), times, 0) == 0);
  }
  CHECK(remove_leftovers(folder.path()).empty());
  save("y.ckpt");
  CHECK(folder.names().size() == precious.size() + 1);
}

TEST_CASE_FIXTURE(Fixture, "a file of another user is no leftover") {
  if (::geteuid() != 0) {
    MESSAGE("skipped: only root can give a file away");
    return;
  }
  const std::string name = leave_from_elsewhere("a.ckpt", 100 * kHour);
  REQUIRE(::chown(folder.path(name).c_str(), 65534, 65534) == 0);
  CHECK(remove_leftovers(folder.path()).empty());
}

TEST_CASE_FIXTURE(Fixture, "what is no regular file is no leftover") {
  write_file(folder.path("precious"), "precious");
  const Folder here(folder.path());
  std::filesystem::create_directory(folder.path(temporary_name(here, "a.ckpt")));
  std::filesystem::create_symlink("precious", folder.path(temporary_name(here, "a.ckpt")));
  REQUIRE(::mkfifo(folder.path(temporary_name(here, "a.ckpt")).c_str(), 0600) == 0);
  CHECK(remove_leftovers(folder.path()).empty());
  save("a.ckpt");
  CHECK(folder.names().size() == 5);
}

TEST_CASE_FIXTURE(Fixture, "names are new each time and tell where a lock holds") {
  const Folder here(folder.path());
  const std::string one = temporary_name(here, "a.ckpt");
  const std::string other = temporary_name(here, "a.ckpt");
  CHECK(one != other);
  CHECK(one.size() == std::string(".a.ckpt.0123456789abcdef.tmp").size());
  const auto reach = [](const std::string& name) { return name.substr(name.size() - 20, 8); };
  CHECK(reach(one) == reach(other));
  CHECK(reach(one) != reach(temporary_name(Folder("/proc"), "a.ckpt")));  // another mount
}

TEST_CASE_FIXTURE(Fixture, "a folder that is not there or no folder is told") {
  CHECK(error_of([&] { remove_leftovers(folder.path("no")); }).error_number() == ENOENT);
  write_file(folder.path("file"), "");
  CHECK(error_of([&] { remove_leftovers(folder.path("file")); }).error_number() == ENOTDIR);
}

// ---- a file that is taken for a leftover just when it is made

// Removes the temporary file ahead of its writer's lock, as another process may, so many times.
struct SweepBeforeLock {
  SweepBeforeLock(const test::TemporaryFolder& folder, int times)
      : left(times), intercepted(SystemCall::kFlock, [this, &folder](int) {
          if (left-- <= 0) return 0;
          for (const std::string& name : folder.names()) {
            if (name.ends_with(".tmp")) std::filesystem::remove(folder.path(name));
          }
          return 0;
        }) {}
  int left;
  Intercepted intercepted;
};

TEST_CASE_FIXTURE(Fixture, "a file that was removed before its lock was on it is made again") {
  for (const int times : {1, 2, 5}) {
    const SweepBeforeLock sweep(folder, times);
    save("a.ckpt");
    CHECK(sweep.left < 0);
    CHECK(test::read_file(folder.path("a.ckpt")) == "bytes");
    CHECK(folder.names() == Names{"a.ckpt"});
    std::filesystem::remove(folder.path("a.ckpt"));
  }
}

TEST_CASE_FIXTURE(Fixture, "a folder whose files vanish each time ends in an error") {
  const SweepBeforeLock sweep(folder, 1'000'000);
  const Error error = error_of([&] { save("a.ckpt"); });
  CHECK(error.kind() == ErrorKind::kIo);
  CHECK(error.error_number() == EAGAIN);
  CHECK(folder.names().empty());
}

TEST_CASE_FIXTURE(Fixture, "a status that can't be had fails no save and leaves no file") {
  for (const int error : {EIO, ENOMEM, ESTALE}) {
    const Refused fstat(SystemCall::kFstat, error);
    save("a.ckpt");
    CHECK(folder.names() == Names{"a.ckpt"});
    const Refused fstatat(SystemCall::kFstatat, error == ESTALE ? EIO : error);
    save("a.ckpt");
    CHECK(folder.names() == Names{"a.ckpt"});
  }
}

}  // namespace
}  // namespace mindckpt
