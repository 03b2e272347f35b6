#include "base/available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string_view>

namespace mindckpt {

namespace {

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

// Where a version of the control groups keeps what of a group's memory, see cgroups(7) and the
// kernel's admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
struct GroupFiles {
  const char* limit;
  const char* used;
  const char* page_cache;  // the field of memory.stat
};
constexpr GroupFiles kVersion1 = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                                  "total_inactive_file"};
constexpr GroupFiles kVersion2 = {"memory.max", "memory.current", "inactive_file"};

// Reads "name value" lines; 0 where the name is not there.
uint64_t field_of(const std::string& path, std::string_view name) {
  std::ifstream file(path);
  for (std::string field; file >> field;) {
    uint64_t value = 0;
    if (field == name && file >> value) return value;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return 0;
}

uint64_t left_in_group(const std::string& folder, const GroupFiles& files) {
  uint64_t limit = 0;
  uint64_t used = 0;
  // No number where there is no limit, and no file in the topmost group.
  if (!(std::ifstream(folder + files.limit) >> limit)) return kUnlimited;
  if (!(std::ifstream(folder + files.used) >> used)) return kUnlimited;
  // The page cache counts as used, and goes when memory is asked for.
  used -= std::min(used, field_of(folder + "memory.stat", files.page_cache));
  return limit > used ? limit - used : 0;
}

// The least of what is left in a group and in those it is in. A container may see its own group as
// the topmost one, and a path that it can't follow.
uint64_t left_in_groups(const std::string& mount, std::string path, const GroupFiles& files) {
  uint64_t left = left_in_group(mount + '/', files);
  if (path.find("/..") != std::string::npos) return left;
  for (; path.size() > 1; path.resize(path.rfind('/'))) {
    left = std::min(left, left_in_group(mount + path + '/', files));
  }
  return left;
}

bool has_memory(std::string_view controllers) {
  while (!controllers.empty()) {
    const size_t end = std::min(controllers.find(','), controllers.size());
    if (controllers.substr(0, end) == "memory") return true;
    controllers.remove_prefix(std::min(end + 1, controllers.size()));
  }
  return false;
}

}  // namespace

uint64_t available_host_memory(const std::string& root) {
  const uint64_t kib = field_of(root + "/proc/meminfo", "MemAvailable:");
  uint64_t available = kib > 0 ? kib << 10 : kUnlimited;
  // Lines "hierarchy:controllers:path"; of version 2 it is "0::path".
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const auto controllers = std::string_view(line).substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (!path.starts_with('/')) continue;
    uint64_t left = kUnlimited;
    if (controllers.empty()) {
      left = left_in_groups(root + "/sys/fs/cgroup", path, kVersion2);
    } else if (has_memory(controllers)) {
      left = left_in_groups(root + "/sys/fs/cgroup/memory", path, kVersion1);
    }
    available = std::min(available, left);
  }
  return available;
}

}  // namespace mindckpt
