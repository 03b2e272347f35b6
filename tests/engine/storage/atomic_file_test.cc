#include "storage/atomic_file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <thread>

#include "support/errors.h"
#include "support/out_of_memory.h"
#include "support/random.h"
#include "support/temporary_folder.h"

namespace mindckpt {
namespace {

using test::Bytes;
using test::error_of;
using test::read_file;
using test::write_file;
using Names = std::vector<std::string>;

struct Fixture {
  test::TemporaryFolder folder;
  std::string path = folder.path("x.ckpt");

  // A name like those of temporary files for x.ckpt.
  std::string leftover(std::string_view digits = "0123456789abcdef") const {
    return folder.path(".x.ckpt." + std::string(digits) + ".tmp");
  }
};

void write(Sink& sink, uint64_t offset, std::string_view text) {
  const ByteView piece = as_bytes(text);
  sink.write_at(offset, {&piece, 1});
}

AtomicFile::Options durable(bool is_durable = true) {
  AtomicFile::Options options;
  options.durable = is_durable;
  return options;
}

void save_text(const std::string& path, std::string_view text,
               const AtomicFile::Options& options = {}) {
  AtomicFile file(path, text.size(), options);
  write(file, 0, text);
  file.commit();
}

mode_t mode_of(const std::string& path) {
  struct stat status{};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777;
}

TEST_CASE_FIXTURE(Fixture, "a committed file holds what was written and can only be read") {
  for (const bool is_durable : {false, true}) {
    save_text(path, "bytes", durable(is_durable));
    CHECK(read_file(path) == "bytes");
    CHECK(mode_of(path) == 0400);
    CHECK(folder.names() == Names{"x.ckpt"});
  }
}

TEST_CASE_FIXTURE(Fixture, "the mode of a file does not follow the umask") {
  const mode_t before = ::umask(0777);
  save_text(path, "bytes");
  ::umask(before);
  CHECK(mode_of(path) == 0400);
}

TEST_CASE_FIXTURE(Fixture, "until the commit there is only a private temporary file") {
  AtomicFile file(path, 5, {});
  write(file, 0, "bytes");
  const Names names = folder.names();
  REQUIRE(names.size() == 1);
  CHECK(names[0].starts_with(".x.ckpt."));
  CHECK(names[0].ends_with(".tmp"));
  CHECK(names[0].size() == std::string(".x.ckpt.0123456789abcdef.tmp").size());
  CHECK(mode_of(folder.path(names[0])) == 0600);
}

TEST_CASE_FIXTURE(Fixture, "an uncommitted file leaves nothing behind") {
  {
    AtomicFile file(path, 5, {});
    write(file, 0, "bytes");
  }
  CHECK(folder.names().empty());
}

TEST_CASE_FIXTURE(Fixture, "the old file is whole until the commit replaces it") {
  save_text(path, "the old one");
  {
    AtomicFile file(path, 3, durable());
    write(file, 0, "new");
    CHECK(read_file(path) == "the old one");
  }
  CHECK(read_file(path) == "the old one");
  save_text(path, "new");
  CHECK(read_file(path) == "new");
  CHECK(folder.names() == Names{"x.ckpt"});
}

TEST_CASE_FIXTURE(Fixture, "who has the old file open keeps reading it") {
  save_text(path, "the old one");
  const FileDescriptor open(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  save_text(path, "new");
  char text[11];
  CHECK(::read(open.get(), text, sizeof(text)) == 11);
  CHECK(std::string_view(text, 11) == "the old one");
}

TEST_CASE_FIXTURE(Fixture, "blocks may be written in any order and in pieces") {
  test::Random random(111);
  const Bytes bytes = random.bytes(5000);
  std::vector<size_t> blocks(50);
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = i * 100;
  random.shuffle(blocks);
  AtomicFile file(path, bytes.size(), {});
  for (const size_t begin : blocks) {
    const ByteView block = ByteView(bytes).subspan(begin, 100);
    const size_t cut = random.below(101);
    const ByteView pieces[] = {block.first(cut), {}, block.subspan(cut)};
    file.write_at(begin, pieces);
  }
  file.commit();
  CHECK(read_file(path) == test::text_of(bytes));
}

TEST_CASE_FIXTURE(Fixture, "more pieces than one system call takes are written") {
  test::Random random(112);
  const Bytes bytes = random.bytes(3000);
  std::vector<ByteView> pieces;
  for (size_t i = 0; i < bytes.size(); ++i) pieces.push_back(ByteView(bytes).subspan(i, 1));
  AtomicFile file(path, bytes.size(), {});
  file.write_at(0, pieces);
  file.commit();
  CHECK(read_file(path) == test::text_of(bytes));
}

TEST_CASE_FIXTURE(Fixture, "threads may write different blocks at once") {
  constexpr int kBlocks = 64;
  AtomicFile file(path, kBlocks * 1000, durable());
  std::atomic<int> next{0};
  std::vector<std::jthread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&] {
      for (int block; (block = next++) < kBlocks;) {
        const std::string text(1000, static_cast<char>(block));
        write(file, static_cast<uint64_t>(block) * text.size(), text);
      }
    });
  }
  threads.clear();
  file.commit();
  std::string expected;
  for (int block = 0; block < kBlocks; ++block) expected.append(1000, static_cast<char>(block));
  CHECK((read_file(path) == expected));
}

TEST_CASE_FIXTURE(Fixture, "a file of no bytes can be saved") {
  save_text(path, "");
  CHECK(read_file(path).empty());
}

TEST_CASE_FIXTURE(Fixture, "space that the disk has not is noticed before anything is written") {
  const Error error = error_of([&] { AtomicFile(path, uint64_t{1} << 60, {}); });
  CHECK(error.kind() == ErrorKind::kIo);
  CHECK((error.error_number() == ENOSPC || error.error_number() == EFBIG));
  CHECK(error.path() == path);
  CHECK(folder.names().empty());
}

TEST_CASE_FIXTURE(Fixture, "a folder that is not there is ENOENT and one that is a file ENOTDIR") {
  const Error missing = error_of([&] { AtomicFile(folder.path("no/x.ckpt"), 1, {}); });
  CHECK(missing.kind() == ErrorKind::kIo);
  CHECK(missing.error_number() == ENOENT);
  CHECK(missing.path() == folder.path("no/"));
  write_file(folder.path("file"), "x");
  const Error file = error_of([&] { AtomicFile(folder.path("file/x.ckpt"), 1, {}); });
  CHECK(file.error_number() == ENOTDIR);
}

TEST_CASE("a folder that takes no files fails with the path of the target") {
  const Error error = error_of([] { AtomicFile("/proc/x.ckpt", 1, {}); });
  CHECK(error.kind() == ErrorKind::kIo);
  CHECK(error.path() == "/proc/x.ckpt");
  CHECK(test::message(error) == doctest::Contains("create a temporary file for"));
}

TEST_CASE_FIXTURE(Fixture, "a commit over a folder fails and leaves nothing behind") {
  std::filesystem::create_directory(path);
  {
    AtomicFile file(path, 5, {});
    write(file, 0, "bytes");
    const Error error = error_of([&] { file.commit(); });
    CHECK(error.kind() == ErrorKind::kIo);
    CHECK(error.error_number() == EISDIR);
    CHECK(error.path() == path);
  }
  CHECK(folder.names() == Names{"x.ckpt"});
}

TEST_CASE_FIXTURE(Fixture, "a name without a folder is in the working directory") {
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  save_text("x.ckpt", "bytes");
  std::filesystem::current_path(before);
  CHECK(read_file(path) == "bytes");
}

TEST_CASE_FIXTURE(Fixture, "renaming the folder meanwhile does not split the two files") {
  std::filesystem::create_directory(folder.path("before"));
  AtomicFile file(folder.path("before/x.ckpt"), 5, durable());
  write(file, 0, "bytes");
  std::filesystem::rename(folder.path("before"), folder.path("after"));
  file.commit();
  CHECK(read_file(folder.path("after/x.ckpt")) == "bytes");
}

TEST_CASE_FIXTURE(Fixture, "names of up to 255 bytes can be saved and longer ones leave nothing") {
  for (const size_t nbytes : {1u, 180u, 181u, 235u, 254u, 255u}) {
    const std::string name(nbytes, 'n');
    save_text(folder.path(name), "bytes");
    CHECK(folder.names() == Names{name});
    std::filesystem::remove(folder.path(name));
  }
  const Error error = error_of([&] { save_text(folder.path(std::string(256, 'n')), "bytes"); });
  CHECK(error.kind() == ErrorKind::kIo);
  CHECK(error.error_number() == ENAMETOOLONG);
  CHECK(folder.names().empty());
}

TEST_CASE_FIXTURE(Fixture, "the leftover of a killed process is removed by the next save") {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    AtomicFile file(path, 5, {});
    ::raise(SIGKILL);
  }
  REQUIRE(::waitpid(child, nullptr, 0) == child);
  REQUIRE(folder.names().size() == 1);
  save_text(path, "bytes");
  CHECK(folder.names() == Names{"x.ckpt"});
}

TEST_CASE_FIXTURE(Fixture, "a file that is being written is no leftover") {
  AtomicFile first(path, 5, {});
  const Names names = folder.names();
  write(first, 0, "first");
  save_text(path, "second");
  CHECK(folder.names().size() == 2);
  CHECK(std::filesystem::exists(folder.path(names[0])));
  first.commit();
  CHECK(read_file(path) == "first");
  CHECK(folder.names() == Names{"x.ckpt"});
}

TEST_CASE_FIXTURE(Fixture, "files that only look like leftovers are left alone") {
  const Names others = {folder.path("x.ckpt.tmp"),
                        folder.path(".x.ckpt.tmp"),
                        leftover("0123456789abcde"),
                        leftover("0123456789abcdef0"),
                        leftover("0123456789abcdeg"),
                        leftover("0123456789ABCDEF"),
                        folder.path(".y.ckpt.0123456789abcdef.tmp"),
                        folder.path(".x.ckpt.0123456789abcdef.tmq"),
                        folder.path("x.ckpt.0123456789abcdef.tmp")};
  for (const std::string& other : others) write_file(other, "not ours");
  std::filesystem::create_directory(leftover("00000000000000dd"));
  std::filesystem::create_symlink("/dev/null", leftover("00000000000000aa"));
  save_text(path, "bytes");
  CHECK(folder.names().size() == others.size() + 3);
}

TEST_CASE_FIXTURE(Fixture, "a leftover of another save of the same name is removed") {
  write_file(leftover(), "left over");
  save_text(path, "bytes");
  CHECK(folder.names() == Names{"x.ckpt"});
}

TEST_CASE_FIXTURE(Fixture, "a save that runs out of memory anywhere leaves nothing behind") {
  for (const std::string& reuse : {std::string(), folder.path("old.ckpt")}) {
    bool was_saved = false;
    for (size_t nth = 0; !was_saved; ++nth) {
      CAPTURE(nth);
      REQUIRE(nth < 1000);
      write_file(path, "the old one");
      if (!reuse.empty()) write_file(reuse, "retired");
      AtomicFile::Options options = durable();
      options.reuse = reuse;
      const ByteView piece = as_bytes("new");
      try {
        const test::OutOfMemory out_of_memory(nth);
        AtomicFile file(path, piece.size(), options);
        file.write_at(0, {&piece, 1});
        file.sync();
        file.commit();
        was_saved = !out_of_memory.came_about();
      } catch (const std::bad_alloc&) {
        CHECK(read_file(path) == "the old one");
      }
      for (const std::string& name : folder.names()) CHECK_FALSE(name.ends_with(".tmp"));
      std::filesystem::remove(path);
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "many writers of one name leave one whole file") {
  constexpr int kWriters = 4;
  constexpr int kSaves = 12;
  std::atomic<int> torn{0};
  std::atomic<bool> over{false};
  save_text(path, std::string(20'000, '0'));
  std::jthread reader([&] {
    while (!over) {
      const std::string text = read_file(path);
      if (text.size() != 20'000 || text.find_first_not_of(text[0]) != text.npos) ++torn;
    }
  });
  std::vector<std::jthread> writers;
  for (int writer = 0; writer < kWriters; ++writer) {
    writers.emplace_back([&, writer] {
      const std::string text(20'000, static_cast<char>('a' + writer));
      for (int i = 0; i < kSaves; ++i) save_text(path, text);
    });
  }
  writers.clear();
  over = true;
  reader.join();
  CHECK(torn.load() == 0);
  CHECK(folder.names() == Names{"x.ckpt"});
}

}  // namespace
}  // namespace mindckpt
