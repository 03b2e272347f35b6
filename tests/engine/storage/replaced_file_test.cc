#include "storage/replaced_file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <string>
#include <thread>

#include "storage/atomic_file.h"
#include "support/temporary_folder.h"

namespace mindckpt {
namespace {

struct Fixture {
  test::TemporaryFolder folder;
  std::string path = folder.path("x.ckpt");
  FileDescriptor directory{::open(folder.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};

  void make(uint64_t nbytes) const {
    test::write_file(path, "");
    std::filesystem::resize_file(path, nbytes);  // sparse: it is the length that counts
  }
  bool holds() const { return ReplacedFile(directory.get(), "x.ckpt").is_held(); }
};

TEST_CASE_FIXTURE(Fixture, "only a large regular file whose last name goes is held") {
  CHECK_FALSE(holds());
  make(ReplacedFile::kWorthBytes - 1);
  CHECK_FALSE(holds());
  make(ReplacedFile::kWorthBytes);
  CHECK(holds());
  std::filesystem::create_hard_link(path, folder.path("y"));
  CHECK_FALSE(holds());
  std::filesystem::remove(path);
  std::filesystem::create_symlink(folder.path("y"), path);
  CHECK_FALSE(holds());
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  CHECK_FALSE(holds());
}

// A write lease is granted when nobody else has the file.
bool is_held_by_somebody(int fd) {
  if (::fcntl(fd, F_SETLEASE, F_WRLCK) != 0) return true;
  ::fcntl(fd, F_SETLEASE, F_UNLCK);
  return false;
}

TEST_CASE_FIXTURE(Fixture, "a replaced file is let go of soon and no forked child holds it") {
  make(ReplacedFile::kWorthBytes);
  pid_t child = -1;
  const FileDescriptor old(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (is_held_by_somebody(old.get())) {
    MESSAGE("skipped: the temporary folder's file system knows no leases");
    return;
  }
  {
    ReplacedFile replaced(directory.get(), "x.ckpt");
    CHECK(is_held_by_somebody(old.get()));
    child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ::alarm(60);
      while (true) ::pause();
    }
    replaced.release_in_background();
    CHECK_FALSE(replaced.is_held());
  }
  for (int i = 0; i < 20'000 && is_held_by_somebody(old.get()); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  CHECK_FALSE(is_held_by_somebody(old.get()));
  ::kill(child, SIGKILL);
  CHECK(::waitpid(child, nullptr, 0) == child);
  {
    const ReplacedFile replaced(directory.get(), "x.ckpt");
  }
  CHECK_FALSE(is_held_by_somebody(old.get()));
}

TEST_CASE_FIXTURE(Fixture, "a forked child does not wait for space that its parent is freeing") {
  // The parent frees for a while: what is seen after the fork was so at the fork.
  constexpr uint64_t kNbytes = uint64_t{256} << 20;
  bool was_pending = false;
  for (int attempt = 0; attempt < 20 && !was_pending; ++attempt) {
    {
      const std::string block(size_t{1} << 20, 'x');
      std::ofstream file(path, std::ios::binary);
      for (uint64_t nbytes = 0; nbytes < kNbytes; nbytes += block.size()) file << block;
    }
    ReplacedFile replaced(directory.get(), "x.ckpt");
    if (!replaced.is_held()) {
      MESSAGE("skipped: the temporary folder's file system is not local");
      return;
    }
    std::filesystem::remove(path);
    replaced.release_in_background();
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) ::_exit(ReplacedFile::releases_pending() ? 1 : 0);
    was_pending = ReplacedFile::releases_pending();
    int status = -1;
    CHECK(::waitpid(child, &status, 0) == child);
    CHECK(status == 0);
  }
  CHECK(was_pending);
  while (ReplacedFile::releases_pending()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

TEST_CASE_FIXTURE(Fixture, "a save over a large file replaces it") {
  make(ReplacedFile::kWorthBytes);
  {
    AtomicFile file(path, 3, {});
    const ByteView piece = as_bytes("new");
    file.write_at(0, {&piece, 1});
    file.commit();
  }
  CHECK(test::read_file(path) == "new");
  CHECK(folder.names() == std::vector<std::string>{"x.ckpt"});
}

}  // namespace
}  // namespace mindckpt
