#include "base/available_memory.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include "support/temporary_folder.h"

// On made-up trees of the system's files, whose layouts are those of proc(5) and cgroups(7).
namespace mindckpt {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

struct System {
  System() {
    write("proc/meminfo",
          "MemTotal:       65536000 kB\nMemAvailable:    1024000 kB\nBuffers: 5 kB\n");
  }

  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = folder.path(path);
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  void write_group(const std::string& group, const std::string& limit, uint64_t used,
                   uint64_t page_cache) const {
    write(group + "/memory.max", limit + '\n');
    write(group + "/memory.current", std::to_string(used) + '\n');
    write(group + "/memory.stat",
          "anon 77\ninactive_file " + std::to_string(page_cache) + "\nactive_file 99999999\n");
  }
  uint64_t available() const { return available_host_memory(folder.path("")); }

  test::TemporaryFolder folder;
};

std::string mib(uint64_t count) { return std::to_string(count * kMiB); }

TEST_CASE("without control groups the kernel's word counts") {
  const System system;
  CHECK(system.available() == 1000 * kMiB);
  std::filesystem::remove(system.folder.path("proc/meminfo"));
  CHECK(system.available() == std::numeric_limits<uint64_t>::max());
  system.write("proc/self/cgroup", "nonsense\n1:2\n0::nowhere\n");
  CHECK(system.available() == std::numeric_limits<uint64_t>::max());
}

TEST_CASE("the tightest of a process's control groups counts, less what others use of it") {
  const System system;
  system.write("proc/self/cgroup", "0::/job.slice/step/task\n");
  system.write_group("sys/fs/cgroup/job.slice", mib(900), 300 * kMiB, 100 * kMiB);
  system.write_group("sys/fs/cgroup/job.slice/step", "max", 200 * kMiB, 0);
  system.write_group("sys/fs/cgroup/job.slice/step/task", mib(800), 50 * kMiB, 0);
  CHECK(system.available() == 700 * kMiB);
  system.write_group("sys/fs/cgroup/job.slice/step", mib(210), 200 * kMiB, 0);
  CHECK(system.available() == 10 * kMiB);
  system.write_group("sys/fs/cgroup/job.slice/step", mib(210), 230 * kMiB, 0);
  CHECK(system.available() == 0);
  // Another's group is none of them.
  system.write_group("sys/fs/cgroup/job.slice/step", "max", 0, 0);
  system.write_group("sys/fs/cgroup/job.slice/other", mib(1), 0, 0);
  CHECK(system.available() == 700 * kMiB);
}

TEST_CASE("a container's own group may be all that it sees") {
  const System system;
  system.write_group("sys/fs/cgroup", mib(500), 100 * kMiB, 0);
  for (const char* path : {"/", "/docker/0123abcd", "/../other"}) {
    CAPTURE(path);
    system.write("proc/self/cgroup", std::string("0::") + path + '\n');
    CHECK(system.available() == 400 * kMiB);
  }
}

TEST_CASE("control groups of version 1 are read in their memory hierarchy") {
  const System system;
  system.write("proc/self/cgroup",
               "12:cpu,cpuacct:/elsewhere\n7:hugetlb,memory:/job/task\n1:name=systemd:/job\n");
  const std::string folder = "sys/fs/cgroup/memory";
  const auto write_group = [&](const std::string& group, const std::string& limit, uint64_t used) {
    system.write(folder + group + "/memory.limit_in_bytes", limit + '\n');
    system.write(folder + group + "/memory.usage_in_bytes", std::to_string(used) + '\n');
    system.write(folder + group + "/memory.stat",
                 "inactive_file 1\ntotal_inactive_file " + mib(20) + '\n');
  };
  write_group("", "9223372036854771712", 5000 * kMiB);  // no limit
  write_group("/job", mib(600), 100 * kMiB);
  write_group("/job/task", mib(300), 60 * kMiB);
  CHECK(system.available() == 260 * kMiB);
  write_group("/job", mib(600), 500 * kMiB);
  CHECK(system.available() == 120 * kMiB);
}

TEST_CASE("this machine has memory") { CHECK(available_host_memory() > kMiB); }

}  // namespace
}  // namespace mindckpt
