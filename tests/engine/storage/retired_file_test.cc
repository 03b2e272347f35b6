#include "storage/retired_file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "storage/atomic_file.h"
#include "storage/mapping.h"
#include "support/errors.h"
#include "support/temporary_folder.h"

namespace mindckpt {
namespace {

using test::error_of;
using test::read_file;
using Names = std::vector<std::string>;

struct Fixture {
  test::TemporaryFolder folder;
  std::string path = folder.path("new.ckpt");
  std::string old = folder.path("old.ckpt");

  Fixture() {
    test::write_file(old, "the retired checkpoint's bytes");
    REQUIRE(::chmod(old.c_str(), 0400) == 0);
  }

  AtomicFile::Options options(bool durable = true) const {
    AtomicFile::Options options;
    options.durable = durable;
    options.reuse = old;
    return options;
  }

  // Saves `text`; returns why the retired file was not written over, "" when it was.
  std::string save(std::string_view text, bool durable = true) const {
    AtomicFile file(path, text.size(), options(durable));
    const ByteView piece = as_bytes(text);
    file.write_at(0, {&piece, 1});
    file.sync();
    file.commit();
    CHECK(file.reuses() == file.why_not_reused().empty());
    CHECK(read_file(path) == text);
    return file.why_not_reused();
  }

  // That nothing was written over, and why; and that the retired file is gone all the same.
  void check_not_reused(const std::string& why_not, bool durable = true) const {
    CHECK(save("new", durable) == why_not);
    CHECK(folder.names() == Names{"new.ckpt"});
  }

  static ino_t inode(const std::string& name) {
    struct stat status{};
    REQUIRE(::stat(name.c_str(), &status) == 0);
    return status.st_ino;
  }

  // Whether this file system says who has a file open; without that nothing is written over.
  bool knows_leases() const {
    const FileDescriptor fd(::open(old.c_str(), O_RDONLY | O_CLOEXEC));
    const bool knows = ::fcntl(fd.get(), F_SETLEASE, F_WRLCK) == 0;
    if (!knows) MESSAGE("skipped: the temporary folder's file system knows no leases");
    return knows;
  }
};

TEST_CASE_FIXTURE(Fixture, "a retired file becomes the new one and nothing of it is left") {
  if (!knows_leases()) return;
  for (const std::string& text :
       {std::string("shorter"), std::string(100'000, 'l'), std::string()}) {
    const ino_t before = inode(old);
    CHECK(save(text).empty());
    CHECK(inode(path) == before);
    CHECK(folder.names() == Names{"new.ckpt"});
    struct stat status{};
    REQUIRE(::stat(path.c_str(), &status) == 0);
    CHECK((status.st_mode & 07777) == 0400);
    std::filesystem::rename(path, old);
  }
}

TEST_CASE_FIXTURE(Fixture, "until the commit a retired file's bytes are under a temporary name") {
  if (!knows_leases()) return;
  {
    AtomicFile file(path, 3, options());
    REQUIRE(file.reuses());
    const Names names = folder.names();
    REQUIRE(names.size() == 1);
    CHECK(names[0].starts_with(".new.ckpt."));
    CHECK(names[0].ends_with(".tmp"));
  }
  CHECK(folder.names().empty());  // it was given up, and the save was not committed
}

TEST_CASE_FIXTURE(Fixture, "a retired file in another folder is taken from there") {
  if (!knows_leases()) return;
  std::filesystem::create_directory(folder.path("sub"));
  std::filesystem::rename(old, folder.path("sub/old.ckpt"));
  old = folder.path("sub/old.ckpt");
  CHECK(save("new").empty());
  CHECK(folder.names() == Names{"new.ckpt", "sub"});
  CHECK(std::filesystem::is_empty(folder.path("sub")));
}

TEST_CASE_FIXTURE(Fixture,
                  "a killed save that took a retired file leaves a leftover to be removed") {
  if (!knows_leases()) return;
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    AtomicFile file(path, 5, options());
    ::raise(SIGKILL);
  }
  REQUIRE(::waitpid(child, nullptr, 0) == child);
  REQUIRE(folder.names().size() == 1);
  CHECK(save("new") == "lstat: No such file or directory");
  CHECK(folder.names() == Names{"new.ckpt"});
}

TEST_CASE_FIXTURE(Fixture, "a save that is not durable writes over no old bytes") {
  check_not_reused("the save is not durable", false);
}

TEST_CASE_FIXTURE(Fixture, "a retired file that somebody has open is not written over") {
  const FileDescriptor reader(::open(old.c_str(), O_RDONLY | O_CLOEXEC));
  check_not_reused("it is in use");
  char text[30];
  CHECK(::read(reader.get(), text, sizeof(text)) == 30);
  CHECK(std::string_view(text, 30) == "the retired checkpoint's bytes");
}

TEST_CASE_FIXTURE(Fixture, "a retired file that somebody has mapped is not written over") {
  FileDescriptor reader(::open(old.c_str(), O_RDONLY | O_CLOEXEC));
  const Mapping mapping(reader.get(), 30, old.c_str());
  {
    const FileDescriptor closed = std::move(reader);
  }
  check_not_reused("it is in use");
  CHECK(std::string_view(reinterpret_cast<const char*>(mapping.data()), 30) ==
        "the retired checkpoint's bytes");
}

TEST_CASE_FIXTURE(Fixture, "a retired file with another name keeps its bytes there") {
  std::filesystem::create_hard_link(old, folder.path("kept.ckpt"));
  CHECK(save("new") == "it has another name");
  CHECK(folder.names() == Names{"kept.ckpt", "new.ckpt"});
  CHECK(read_file(folder.path("kept.ckpt")) == "the retired checkpoint's bytes");
}

TEST_CASE_FIXTURE(Fixture,
                  "a retired file with extended attributes does not give them to the new one") {
  if (::setxattr(old.c_str(), "user.comment", "of the old one", 14, 0) != 0) {
    MESSAGE("skipped: the temporary folder's file system keeps no attributes of users");
    return;
  }
  check_not_reused("it has attributes that a new file has not");
  CHECK(::getxattr(path.c_str(), "user.comment", nullptr, 0) < 0);
}

TEST_CASE_FIXTURE(Fixture, "a retired file that is not there is no error") {
  std::filesystem::remove(old);
  check_not_reused("lstat: No such file or directory");
}

TEST_CASE_FIXTURE(Fixture, "a retired file of another file system is removed after the save") {
  struct stat here{};
  struct stat there{};
  if (::stat("/dev/shm", &there) != 0 || ::stat(folder.path().c_str(), &here) != 0 ||
      here.st_dev == there.st_dev || ::access("/dev/shm", W_OK) != 0) {
    MESSAGE("skipped: there is no second file system");
    return;
  }
  std::filesystem::remove(old);
  old = "/dev/shm/mindckpt-retired-" + std::to_string(::getpid());
  test::write_file(old, "old");
  check_not_reused("it is on another file system");
  CHECK_FALSE(std::filesystem::exists(old));
}

TEST_CASE_FIXTURE(Fixture, "a retired file that was not written over outlives a save that fails") {
  const FileDescriptor reader(::open(old.c_str(), O_RDONLY | O_CLOEXEC));
  {
    AtomicFile file(path, 3, options());
  }
  CHECK(folder.names() == Names{"old.ckpt"});
  struct stat status{};
  REQUIRE(::stat(old.c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0400);
}

TEST_CASE_FIXTURE(Fixture, "the target or a folder or a symlink is no retired file") {
  std::filesystem::create_directory(folder.path("folder"));
  std::filesystem::create_symlink(old, folder.path("link"));
  using Paths = std::pair<std::string, std::string>;
  for (const Paths& given : {Paths{old, old}, Paths{path, folder.path("folder")},
                             Paths{path, folder.path("link")}, Paths{path, "/dev/null"}}) {
    AtomicFile::Options wrong;
    wrong.durable = true;
    wrong.reuse = given.second;
    const Error error = error_of([&] { AtomicFile(given.first, 3, wrong); });
    CHECK(error.kind() == ErrorKind::kInvalidArgument);
    CHECK(test::message(error) == doctest::Contains("reuse"));
    CHECK(test::message(error) == doctest::Contains(given.second.c_str()));
  }
  CHECK(read_file(old) == "the retired checkpoint's bytes");
  CHECK(folder.names() == Names{"folder", "link", "old.ckpt"});
}

TEST_CASE_FIXTURE(Fixture, "a wrong MINDCKPT_WRITE is told before a retired file is taken") {
  const char* const set = ::getenv("MINDCKPT_WRITE");
  const std::string before = set == nullptr ? "" : set;
  ::setenv("MINDCKPT_WRITE", "fast", 1);
  const Error error = error_of([&] { AtomicFile(path, 3, options()); });
  ::setenv("MINDCKPT_WRITE", before.c_str(), 1);
  CHECK(error.kind() == ErrorKind::kInvalidArgument);
  CHECK(folder.names() == Names{"old.ckpt"});
}

TEST_CASE_FIXTURE(Fixture, "a full disk with a retired file leaves the target and nothing else") {
  test::write_file(path, "the old one");
  const Error error = error_of([&] { AtomicFile(path, uint64_t{1} << 60, options()); });
  CHECK(error.kind() == ErrorKind::kIo);
  CHECK(read_file(path) == "the old one");
  CHECK(folder.names() == Names{"new.ckpt"});
}

}  // namespace
}  // namespace mindckpt
