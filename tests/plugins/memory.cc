#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "simulation.h"
#include "state.h"

namespace stand_in {
namespace {

constexpr size_t kPageBytes = 4096;

// Under State::memory_mutex; null: no region has it.
std::shared_ptr<Region> find_region(const void* pointer) {
  const auto* const at = static_cast<const std::byte*>(pointer);
  State& all = state();
  auto found = all.regions.upper_bound(at);
  if (found == all.regions.begin()) return nullptr;
  --found;
  const Region& region = *found->second;
  return at < region.begin + region.nbytes ? found->second : nullptr;
}

std::byte* map_memory(size_t nbytes, int protection) {
  void* const memory =
      ::mmap(nullptr, nbytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory);
}

std::shared_ptr<Region> host_region(Region::Kind kind, int32_t device, std::byte* begin,
                                    size_t nbytes) {
  auto region = std::make_shared<Region>();
  region->kind = kind;
  region->device = device;
  region->begin = begin;
  region->nbytes = nbytes;
  region->bytes = begin;
  return region;
}

// Takes the region that begins at `pointer` out of use.
Result take_region(const void* pointer, Region::Kind kind, Owner owner, Result if_missing,
                   std::shared_ptr<Region>* taken) {
  State& all = state();
  const std::lock_guard lock(all.memory_mutex);
  const auto found = all.regions.find(static_cast<const std::byte*>(pointer));
  if (found == all.regions.end() || found->second->kind != kind || found->second->owner != owner) {
    return refuse(if_missing, name_of(pointer) + " was not obtained by the call that this undoes");
  }
  *taken = std::move(found->second);
  all.regions.erase(found);
  return Result::kOk;
}

void check_unused(const Region& region) {
  if (region.in_flight.load(kRelaxed) > 0) {
    die("memory at " + name_of(region.begin) + " is given back while operations in streams use it");
  }
}

void give_back_device_memory(const Region& region) {
  check_unused(region);
  State& all = state();
  const std::lock_guard lock(all.memory_mutex);
  all.device(region.device).used_nbytes -= region.mapped_nbytes;
}

}  // namespace

Result use_memory(const void* pointer, size_t nbytes, bool on_device, std::shared_ptr<Region>* used,
                  std::byte** bytes) {
  State& all = state();
  const std::lock_guard lock(all.memory_mutex);
  std::shared_ptr<Region> region = find_region(pointer);
  const bool found = region && (region->kind == Region::Kind::kDevice) == on_device;
  if (!found) {
    return refuse(Result::kInvalidValue, name_of(pointer) + (on_device ? " is not device memory"
                                                                       : " is not pinned memory"));
  }
  const auto offset = static_cast<size_t>(static_cast<const std::byte*>(pointer) - region->begin);
  if (nbytes > region->nbytes - offset) {
    return refuse(Result::kInvalidValue, std::to_string(nbytes) + " bytes at " + name_of(pointer) +
                                             ", where only " +
                                             std::to_string(region->nbytes - offset) + " are");
  }
  *bytes = region->bytes + offset;
  *used = std::move(region);
  return Result::kOk;
}

Region::~Region() {
  if (kind == Kind::kDevice) {
    ::munmap(begin, mapped_nbytes);
    ::munmap(bytes, mapped_nbytes);
  }
  std::free(allocation);
}

Result allocate(int32_t device, size_t nbytes, Owner owner, void** pointer) {
  State& all = state();
  if (!all.has(device)) return refuse(Result::kInvalidDevice, "no such device");
  if (pointer == nullptr || nbytes == 0) return refuse(Result::kInvalidValue, "0 bytes, or null");
  const uint64_t total = all.total_nbytes;
  const std::lock_guard lock(all.memory_mutex);
  uint64_t& used = all.device(device).used_nbytes;
  const uint64_t mapped = (nbytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  if (nbytes > total || used > total - nbytes) {
    return refuse(Result::kOutOfMemory, std::to_string(nbytes) + " bytes, " + std::to_string(used) +
                                            " of " + std::to_string(total) + " are in use");
  }
  std::byte* const begin = map_memory(mapped, PROT_NONE);
  std::byte* const bytes = map_memory(mapped, PROT_READ | PROT_WRITE);
  if (begin == nullptr || bytes == nullptr) {
    if (begin != nullptr) ::munmap(begin, mapped);
    if (bytes != nullptr) ::munmap(bytes, mapped);
    return refuse(Result::kOutOfMemory, "mmap failed");
  }
  auto region = std::make_shared<Region>();
  region->kind = Region::Kind::kDevice;
  region->owner = owner;
  region->device = device;
  region->begin = begin;
  region->nbytes = nbytes;
  region->bytes = bytes;
  region->mapped_nbytes = mapped;
  all.regions.emplace(begin, std::move(region));
  used += mapped;
  *pointer = begin;
  return Result::kOk;
}

Result release(void* pointer, Owner owner) {
  std::shared_ptr<Region> region;
  const Result taken =
      take_region(pointer, Region::Kind::kDevice, owner, Result::kInvalidValue, &region);
  if (taken == Result::kOk) give_back_device_memory(*region);
  return taken;
}

Result release_in_stream(void* pointer, int32_t device, void* stream) {
  const auto found = find_stream(device, stream);
  if (!found) return Result::kInvalidHandle;
  if (const Result open = order(*found); open != Result::kOk) return open;
  std::shared_ptr<Region> region;
  const Result taken =
      take_region(pointer, Region::Kind::kDevice, Owner::kEngine, Result::kInvalidValue, &region);
  if (taken != Result::kOk) return taken;
  found->put([region](Stream&) { give_back_device_memory(*region); }, true);
  return Result::kOk;
}

Result memory_info(int32_t device, uint64_t* free_nbytes, uint64_t* total_nbytes) {
  State& all = state();
  if (!all.has(device)) return refuse(Result::kInvalidDevice, "no such device");
  const std::lock_guard lock(all.memory_mutex);
  *total_nbytes = all.total_nbytes;
  *free_nbytes = *total_nbytes - std::min<uint64_t>(all.device(device).used_nbytes, *total_nbytes);
  return Result::kOk;
}

Result allocate_host(int32_t device, size_t nbytes, size_t misalignment, void** pointer) {
  if (pointer == nullptr || nbytes == 0) return refuse(Result::kInvalidValue, "0 bytes, or null");
  if (nbytes > SIZE_MAX / 2) return refuse(Result::kOutOfMemory, "far too many bytes");
  // From the heap, where AddressSanitizer sees what is done beyond its ends.
  const size_t rounded = (nbytes + misalignment + kPageBytes - 1) / kPageBytes * kPageBytes;
  auto* const memory = static_cast<std::byte*>(std::aligned_alloc(kPageBytes, rounded));
  if (memory == nullptr) return refuse(Result::kOutOfMemory, "malloc failed");
  std::byte* const begin = memory + misalignment;
  auto region = host_region(Region::Kind::kAllocated, device, begin, nbytes);
  region->allocation = memory;
  State& all = state();
  const std::lock_guard lock(all.memory_mutex);
  all.regions.emplace(begin, std::move(region));
  *pointer = begin;
  return Result::kOk;
}

Result release_host(void* pointer) {
  std::shared_ptr<Region> region;
  const Result taken = take_region(pointer, Region::Kind::kAllocated, Owner::kEngine,
                                   Result::kInvalidValue, &region);
  if (taken == Result::kOk) check_unused(*region);
  return taken;
}

Result register_host(int32_t device, void* pointer, size_t nbytes) {
  if (pointer == nullptr || nbytes == 0) return refuse(Result::kInvalidValue, "0 bytes, or null");
  auto* const begin = static_cast<std::byte*>(pointer);
  State& all = state();
  const std::lock_guard lock(all.memory_mutex);
  const auto after = all.regions.lower_bound(begin + nbytes);
  if (after != all.regions.begin()) {
    const Region& before = *std::prev(after)->second;
    if (before.begin + before.nbytes > begin) {
      return refuse(Result::kAlreadyPinned, "the driver knows some of this memory already");
    }
  }
  all.regions.emplace(begin, host_region(Region::Kind::kRegistered, device, begin, nbytes));
  return Result::kOk;
}

Result unregister_host(void* pointer) {
  std::shared_ptr<Region> region;
  const Result taken =
      take_region(pointer, Region::Kind::kRegistered, Owner::kEngine, Result::kNotPinned, &region);
  if (taken == Result::kOk) check_unused(*region);
  return taken;
}

PointerInfo pointer_info(const void* pointer) {
  State& all = state();
  const std::lock_guard lock(all.memory_mutex);
  const auto region = find_region(pointer);
  if (!region) return {};
  return {
      region->kind == Region::Kind::kDevice ? PointerInfo::Kind::kDevice : PointerInfo::Kind::kHost,
      region->device, region->begin, region->nbytes};
}

void write_memory(void* pointer, const void* from, size_t nbytes) {
  if (nbytes == 0) return;
  std::shared_ptr<Region> region;
  std::byte* bytes = nullptr;
  require(use_memory(pointer, nbytes, true, &region, &bytes), "stand_in_write");
  std::memcpy(bytes, from, nbytes);
}

void read_memory(const void* pointer, void* to, size_t nbytes) {
  if (nbytes == 0) return;
  std::shared_ptr<Region> region;
  std::byte* bytes = nullptr;
  require(use_memory(pointer, nbytes, true, &region, &bytes), "stand_in_read");
  std::memcpy(to, bytes, nbytes);
}

}  // namespace stand_in
