#include "storage/refusals.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "storage/atomic_file.h"
#include "support/child.h"
#include "support/errors.h"
#include "support/system_calls.h"
#include "support/temporary_folder.h"

// Saves on file systems that refuse a call. What is a courtesy fails nothing; what durability needs
// fails with what was achieved.
namespace mindckpt {
namespace {

using test::error_of;
using test::Intercepted;
using test::read_file;
using test::Refused;
using test::SystemCall;
using Names = std::vector<std::string>;

std::string said(const char* call, int error_number) {
  return std::string(call) + ": " + std::generic_category().message(error_number);
}

struct Fixture {
  test::TemporaryFolder folder;
  std::string path = folder.path("x.ckpt");

  Fixture() { test::write_file(path, "the old one"); }

  // Saves over the old file; returns what the file system refused.
  std::string save(bool durable = true, const std::string& reuse = {}) const {
    AtomicFile::Options options;
    options.durable = durable;
    options.reuse = reuse;
    AtomicFile file(path, 3, options);
    const ByteView piece = as_bytes("new");
    file.write_at(0, {&piece, 1});
    file.sync();
    file.commit();
    return file.refused();
  }

  void check_saved() const {
    CHECK(read_file(path) == "new");
    CHECK(folder.names() == Names{"x.ckpt"});
  }
  void check_old_file_stays() const {
    CHECK(read_file(path) == "the old one");
    CHECK(folder.names() == Names{"x.ckpt"});
  }

  // Whether the file system is one whose names syncfs() brings to storage.
  bool is_local() const {
    const FileDescriptor fd(::open(folder.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const bool is = is_on_local_file_system(fd.get());
    if (!is) MESSAGE("skipped: the temporary folder's file system is not known to be local");
    return is;
  }
};

TEST_CASE_FIXTURE(Fixture, "a save that nothing is refused to says so") {
  CHECK(save().empty());
  check_saved();
}

TEST_CASE_FIXTURE(Fixture, "a courtesy that the file system refuses fails no save and is told") {
  struct Case {
    SystemCall call;
    const char* name;
    std::vector<int> errors;
  };
  const Case cases[] = {
      {SystemCall::kFchmod, "fchmod", {EPERM, EACCES, ENOSYS, EOPNOTSUPP, EINVAL, EROFS, EIO}},
      {SystemCall::kFallocate, "fallocate", {EINVAL, EPERM, ENOSYS, EOPNOTSUPP, ENODEV, EIO}},
      {SystemCall::kFlock, "flock", {ENOLCK, ENOSYS, EOPNOTSUPP, EINVAL, EBADF}},
  };
  for (const Case& given : cases) {
    CAPTURE(given.name);
    for (const int error : given.errors) {
      CAPTURE(error);
      for (const bool durable : {false, true}) {
        test::write_file(path, "the old one");
        const Refused refused(given.call, error);
        CHECK(save(durable) == said(given.name, error));
        check_saved();
        ::chmod(path.c_str(), 0600);
      }
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "a file keeps its private mode where another one is refused") {
  const Refused refused(SystemCall::kFchmod, EPERM);
  save();
  struct stat status{};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0600);
}

TEST_CASE_FIXTURE(Fixture, "space that is not there is no courtesy") {
  for (const int error : {ENOSPC, EDQUOT, EFBIG}) {
    const Refused refused(SystemCall::kFallocate, error);
    CHECK(error_of([&] { save(); }).error_number() == error);
    check_old_file_stays();
  }
}

TEST_CASE_FIXTURE(Fixture, "what only picks the way of writing may fail") {
  const Refused refused(SystemCall::kFstatfs, EIO);
  CHECK(save().empty());
  check_saved();
}

TEST_CASE_FIXTURE(Fixture, "a file system without fdatasync is asked for fsync") {
  for (const int error : {EINVAL, ENOSYS, EOPNOTSUPP}) {
    test::write_file(path, "the old one");
    int file_syncs = 0;
    const Refused refused(SystemCall::kFdatasync, error);
    const Intercepted fsync(SystemCall::kFsync, [&](int fd) {
      struct stat status{};
      ::fstat(fd, &status);
      file_syncs += S_ISREG(status.st_mode) ? 1 : 0;
      return 0;
    });
    CHECK(save() == said("fdatasync", error));
    CHECK(file_syncs == 1);
    check_saved();
    ::chmod(path.c_str(), 0600);
  }
}

TEST_CASE_FIXTURE(Fixture, "a file that nothing syncs is not published as durable") {
  for (const int error : {EINVAL, ENOSYS, EOPNOTSUPP}) {
    const Refused fdatasync(SystemCall::kFdatasync, error);
    const Refused fsync(SystemCall::kFsync, error);
    const Error told = error_of([&] { save(); });
    CHECK(told.kind() == ErrorKind::kIo);
    CHECK(told.error_number() == error);
    CHECK(told.path() == path);
    CHECK(test::message(told) == doctest::Contains("nothing was published"));
    check_old_file_stays();
  }
  const Refused fdatasync(SystemCall::kFdatasync, EINVAL);
  const Refused fsync(SystemCall::kFsync, EINVAL);
  CHECK(save(false).empty());
  check_saved();
}

TEST_CASE_FIXTURE(Fixture, "a sync that failed is not asked a second time") {
  // The kernel reports a failure once: fsync would then say that all is well.
  for (const int error : {EIO, ENOSPC, EDQUOT, EROFS}) {
    int fsyncs = 0;
    const Refused fdatasync(SystemCall::kFdatasync, error);
    const Intercepted fsync(SystemCall::kFsync, [&](int) { return ++fsyncs, 0; });
    CHECK(error_of([&] { save(); }).error_number() == error);
    CHECK(fsyncs == 0);
    check_old_file_stays();
  }
}

TEST_CASE_FIXTURE(Fixture, "names of a folder without fsync are synced with their file system") {
  if (!is_local()) return;
  for (const int error : {EINVAL, EBADF, ENOSYS, EOPNOTSUPP}) {
    test::write_file(path, "the old one");
    int syncs = 0;
    const Refused fsync(SystemCall::kFsync, error);
    const Intercepted syncfs(SystemCall::kSyncfs, [&](int) {
      CHECK(read_file(path) == "new");  // the name is there before it is synced
      return ++syncs, 0;
    });
    CHECK(save() == said("fsync of the folder", error));
    CHECK(syncs == 1);
    check_saved();
    ::chmod(path.c_str(), 0600);
  }
}

void check_published_but_not_durable(const Fixture& fixture, int error) {
  const Error told = error_of([&] { fixture.save(); });
  CHECK(told.kind() == ErrorKind::kIo);
  CHECK(told.error_number() == error);
  CHECK(told.path() == fixture.path);
  CHECK(test::message(told) == doctest::Contains("the file is published"));
  CHECK(test::message(told) == doctest::Contains("a power cut may lose the name"));
  fixture.check_saved();
  ::chmod(fixture.path.c_str(), 0600);
}

TEST_CASE_FIXTURE(Fixture, "a name that can't be synced is an error that says what is there") {
  for (const int error : {EINVAL, EBADF, ENOSYS, EOPNOTSUPP}) {
    const Refused fsync(SystemCall::kFsync, error);
    {
      const Refused syncfs(SystemCall::kSyncfs, EIO);
      check_published_but_not_durable(*this, error);
    }
    // A network's file system may answer syncfs with nothing done, so it is not asked.
    const Refused network(SystemCall::kFstatfs, EIO);
    check_published_but_not_durable(*this, error);
  }
  const Intercepted syncfs(SystemCall::kSyncfs, [](int) {
    FAIL_CHECK("the kernel reports each failure once");
    return 0;
  });
  for (const int error : {EIO, ENOSPC, EDQUOT, EROFS}) {
    const Refused fsync(SystemCall::kFsync, error);
    check_published_but_not_durable(*this, error);
  }
}

TEST_CASE_FIXTURE(Fixture, "a retired file stays when the name could not be synced") {
  const std::string old = folder.path("old.ckpt");
  test::write_file(old, "retired");
  const FileDescriptor reader(::open(old.c_str(), O_RDONLY | O_CLOEXEC));  // not written over
  const Refused fsync(SystemCall::kFsync, EIO);
  CHECK(error_of([&] { save(true, old); }).error_number() == EIO);
  CHECK(read_file(old) == "retired");
}

TEST_CASE_FIXTURE(Fixture, "a retired file whose folder can't be synced is not written over") {
  const std::string old = folder.path("old.ckpt");
  test::write_file(old, "retired");
  AtomicFile::Options options;
  options.durable = true;
  options.reuse = old;
  const Refused fsync(SystemCall::kFsync, EIO);
  const AtomicFile file(path, 3, options);
  if (file.why_not_reused() == "it is in use") {
    MESSAGE("skipped: the temporary folder's file system knows no leases");
    return;
  }
  CHECK(file.why_not_reused() == "its folder could not be synced");
  CHECK(read_file(old) == "retired");
}

// ---- what a file system tells when a file is closed, and not before

// Every close of a temporary file's descriptor fails, as it does where the server is out of space.
struct CloseFails : Intercepted {
  explicit CloseFails(int error_number)
      : Intercepted(SystemCall::kClose, [error_number](int fd) {
          const auto link = "/proc/self/fd/" + std::to_string(fd);
          std::error_code ignored;
          if (!std::filesystem::read_symlink(link, ignored).string().ends_with(".tmp")) return 0;
          ::close(fd);
          return error_number;
        }) {}
};

TEST_CASE_FIXTURE(Fixture, "what a network's close tells is told before the file is published") {
  const Refused network(SystemCall::kFstatfs, EIO);
  for (const int error : {EDQUOT, ENOSPC, EIO}) {
    for (const bool durable : {false, true}) {
      const CloseFails fails(error);
      const Error told = error_of([&] { save(durable); });
      CHECK(told.error_number() == error);
      CHECK(told.path() == path);
      check_old_file_stays();
    }
  }
  for (const int error : {ENOSYS, EOPNOTSUPP}) {
    test::write_file(path, "the old one");
    const CloseFails fails(error);
    save();
    check_saved();
    ::chmod(path.c_str(), 0600);
  }
}

// ---- a folder that can be written to and not read

// Runs `body` as a user who is not root, in a folder that was given to that user.
template <typename Body>
bool succeeds_as_nobody(const std::string& folder, const Body& body) {
  constexpr uid_t kNobody = 65534;
  if (::geteuid() == 0 && ::chown(folder.c_str(), kNobody, kNobody) != 0) return false;
  return test::succeeds_in_child([&] {
    if (::geteuid() == 0 && (::setgid(kNobody) != 0 || ::setuid(kNobody) != 0)) return false;
    return body();
  });
}

TEST_CASE_FIXTURE(Fixture, "a folder that can't be read takes durable saves on a local disk") {
  const bool local = is_local();
  const std::string drop = folder.path("drop");
  std::filesystem::create_directory(drop);
  REQUIRE(::chmod(folder.path().c_str(), 0755) == 0);
  CHECK(succeeds_as_nobody(drop, [&] {
    path = drop + "/x.ckpt";
    const bool is_closed = ::chmod(drop.c_str(), 0333) == 0 &&
                           ::open(drop.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC) < 0;
    if (!is_closed || !save(false).empty() || read_file(path) != "new") return false;
    ::chmod(path.c_str(), 0600);
    test::write_file(path, "the old one");
    const std::string refused = local ? save(true) : said("open the folder to read", EACCES);
    if (refused != said("open the folder to read", EACCES)) return false;
    if (!local) return true;
    // Retired files, too: their names are synced the same way.
    std::filesystem::rename(path, drop + "/old.ckpt");
    save(true, drop + "/old.ckpt");
    return read_file(path) == "new" && !std::filesystem::exists(drop + "/old.ckpt");
  }));
  REQUIRE(::chmod(drop.c_str(), 0755) == 0);
  CHECK(std::distance(std::filesystem::directory_iterator(drop), {}) == 1);
}

// ---- calls that something hangs on

TEST_CASE_FIXTURE(Fixture, "a rename that fails leaves the old file") {
  for (const int error : {EIO, ENOENT, EACCES, EXDEV}) {
    const Refused refused(SystemCall::kRenameat, error);
    const Error told = error_of([&] { save(); });
    CHECK(told.error_number() == error);
    CHECK(told.path() == path);
    check_old_file_stays();
  }
}

TEST_CASE_FIXTURE(Fixture, "a rename that is done and told as failed has published the file") {
  // By a server whose first answer was lost: asked again, it does not find the name any more.
  for (const int error : {ENOENT, EINTR}) {
    test::write_file(path, "the old one");
    int renames = 0;
    const Intercepted rename(SystemCall::kRenameat, [&](int) {
      if (++renames > 1) return 0;
      for (const std::string& name : folder.names()) {
        if (name.ends_with(".tmp")) std::filesystem::rename(folder.path(name), path);
      }
      return error;
    });
    CHECK(save().empty());
    CHECK(renames == 1);
    check_saved();
    ::chmod(path.c_str(), 0600);
  }
}

TEST_CASE_FIXTURE(Fixture, "a call that a signal interrupts is made again") {
  for (const SystemCall call : {SystemCall::kFchmod, SystemCall::kFlock, SystemCall::kFdatasync,
                                SystemCall::kFsync, SystemCall::kRenameat}) {
    CAPTURE(static_cast<int>(call));
    test::write_file(path, "the old one");
    int calls = 0;
    const Intercepted interrupted(call, [&](int) { return ++calls <= 2 ? EINTR : 0; });
    CHECK(save().empty());
    CHECK(calls == 3);
    check_saved();
    ::chmod(path.c_str(), 0600);
  }
}

TEST_CASE_FIXTURE(Fixture, "a longer retired file that can't be cut fails the save") {
  const std::string old = folder.path("old.ckpt");
  test::write_file(old, "longer than what is saved");
  {
    const FileDescriptor fd(::open(old.c_str(), O_RDONLY | O_CLOEXEC));
    if (::fcntl(fd.get(), F_SETLEASE, F_WRLCK) != 0) {
      MESSAGE("skipped: the temporary folder's file system knows no leases");
      return;
    }
  }
  const Refused refused(SystemCall::kFtruncate, EIO);
  CHECK(error_of([&] { save(true, old); }).error_number() == EIO);
  check_old_file_stays();
}

}  // namespace
}  // namespace mindckpt
