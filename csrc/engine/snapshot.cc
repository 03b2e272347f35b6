#include "engine/snapshot.h"

#include <algorithm>
#include <vector>

#include "base/workers.h"

namespace mindckpt {

namespace {
constexpr uint64_t kCopyBytes = uint64_t{4} << 20;
constexpr uint64_t kAlignment = 64;  // a cache line, so that no two copies write to one

}  // namespace

Buffer snapshot_payloads(FileImage& image, int num_threads) {
  uint64_t total = 0;
  image.relocate_payloads([&](const HostLayout& layout, uint64_t nbytes) {
    total += (nbytes + kAlignment - 1) / kAlignment * kAlignment;
    return layout;
  });
  Buffer buffer(total);
  std::vector<HostLayout> sources;
  std::byte* to = buffer.data();
  struct Part {
    size_t source;
    uint64_t begin;
    uint64_t nbytes;
    std::byte* to;
  };
  std::vector<Part> parts;
  image.relocate_payloads([&](const HostLayout& layout, uint64_t nbytes) {
    for (uint64_t begin = 0; begin < nbytes; begin += kCopyBytes) {
      parts.push_back({sources.size(), begin, std::min(kCopyBytes, nbytes - begin), to + begin});
    }
    sources.push_back(layout);
    HostLayout moved;
    moved.data = to;
    to += (nbytes + kAlignment - 1) / kAlignment * kAlignment;
    return moved;
  });
  const CancelFlag never{false};
  for_each_item(0, parts.size(), num_threads, never, [&](uint64_t item, int) {
    const Part& part = parts[item];
    copy_payload(sources[part.source], part.begin, {part.to, part.nbytes});
  });
  return buffer;
}

}  // namespace mindckpt
