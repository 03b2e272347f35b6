#include "device/device.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/memory.h"
#include "base/process.h"

namespace mindckpt {

namespace {

// Host memory is registered in pieces that end where its address is a multiple of this: a driver
// holds up all its other calls while it pins. No driver copies across the bounds of what was
// registered at once, so DeviceStream::copy splits there what crosses them.
constexpr size_t kPieceBytes = size_t{1} << 30;

uintptr_t address_of(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

size_t nbytes_to_bound(const void* pointer) {
  return kPieceBytes - (address_of(pointer) & (kPieceBytes - 1));
}

// Calls act(begin, nbytes) for each piece of the memory, until one returns false.
template <typename Act>
bool for_each_piece(std::byte* data, size_t nbytes, Act&& act) {
  while (nbytes > 0) {
    const size_t part = std::min(nbytes, nbytes_to_bound(data));
    if (!act(data, part)) return false;
    data += part;
    nbytes -= part;
  }
  return true;
}

// 0 where there is no such number.
size_t round_to_pages(size_t nbytes) {
  if (nbytes > std::numeric_limits<size_t>::max() - 2 * kHugePageBytes) return 0;
  return round_up_to_pages(nbytes);
}

// Pages of our own, not the heap's, so that they can be left out of forks: a child shares its
// parent's pages until one of them writes, and if that is the parent, it gets a copy, while devices
// go on using what they were told of. In huge pages where there are any: fewer of them pin faster.
// nullptr when there is no memory.
std::byte* map_pages(size_t nbytes) {
  const size_t slack = nbytes >= kHugePageBytes ? kHugePageBytes : 0;
  void* const mapped =
      ::mmap(nullptr, nbytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* data = static_cast<std::byte*>(mapped);
  if (slack > 0) {
    const size_t before = (slack - (address_of(data) & (slack - 1))) & (slack - 1);
    if (before > 0) ::munmap(data, before);
    data += before;
    if (before < slack) ::munmap(data + nbytes, slack - before);
    ::madvise(data, nbytes, MADV_HUGEPAGE);
  }
  ::madvise(data, nbytes, MADV_DONTFORK);
  return data;
}

// `registered` bytes are given back to the driver, and then all to the system, unless the driver
// refused: what it may go on using must not become anything else.
void unpin_pages(const mindckpt_device_backend& table, std::byte* pages, size_t registered,
                 size_t mapped) noexcept {
  bool is_free = true;
  for_each_piece(pages, registered, [&](std::byte* piece, size_t) {
    is_free = table.host_unregister(piece) == MINDCKPT_OK && is_free;
    return true;
  });
  if (is_free) ::munmap(pages, mapped);
}

std::string failure(const Backend& backend, mindckpt_status status, const char* call,
                    int32_t device, const std::string& of_what) {
  std::string text = backend.name();
  if (device >= 0) text += ':' + std::to_string(device);
  text += std::string(": ") + call + ": ";
  if (status == MINDCKPT_OUT_OF_MEMORY) {
    text += "out of memory";
    if (!of_what.empty()) text += " for " + of_what;
    text += ": ";
  }
  const char* const words = backend.table().last_error();
  if (words != nullptr && words[0] != '\0') return text + words;
  return text + "failed with status " + std::to_string(status) + ", and no reason was given";
}

// As Backend::check, for calls that ask for memory.
void check_allocation(const Device& device, mindckpt_status status, const char* call, size_t nbytes,
                      const char* kind) {
  if (status == MINDCKPT_OK) return;
  throw Error(ErrorKind::kDevice, failure(device.backend(), status, call, device.ordinal(),
                                          std::to_string(nbytes) + " bytes of " + kind));
}

// The device, current on this thread, for a destructor. False where nothing is to be given back:
// in a forked child, or when the driver refuses, as it may when the process ends.
class QuietBinding {
 public:
  explicit QuietBinding(const Device& device) noexcept
      : device_(device), bound_(!device.backend().is_foreign() && (bind(device) || bind(device))) {}
  ~QuietBinding() {
    if (bound_) device_.backend().table().unbind_thread(device_.ordinal());
  }
  QuietBinding(const QuietBinding&) = delete;
  QuietBinding& operator=(const QuietBinding&) = delete;

  explicit operator bool() const noexcept { return bound_; }

 private:
  // Tried twice by whoever has only this chance to give something back.
  static bool bind(const Device& device) noexcept {
    return device.backend().table().bind_thread(device.ordinal()) == MINDCKPT_OK;
  }

  const Device& device_;
  bool bound_;
};

const mindckpt_device_backend& table_of(const Device& device) { return device.backend().table(); }

}  // namespace

// ---- Backend

Backend::Backend(const mindckpt_device_backend& table) : name_(table.name), process_(process_id()) {
  std::memcpy(&table_, &table, std::min<size_t>(table.struct_size, sizeof(table_)));
  if (const mindckpt_status status = table_.init(); status != MINDCKPT_OK) {
    const char* const words = table_.last_error();
    const bool is_told = words != nullptr && words[0] != '\0';
    throw Error(ErrorKind::kUnavailable,
                name_ + ": " + (is_told ? words : "init failed, and no reason was given"));
  }
  char version[256] = "";
  if (const mindckpt_status status = table_.version(version, sizeof(version));
      status != MINDCKPT_OK) {
    const std::string why = failure(*this, status, "version", -1, {});
    if (table_.shutdown != nullptr) table_.shutdown();
    throw Error(ErrorKind::kUnavailable, why);
  }
  version[sizeof(version) - 1] = '\0';
  version_ = version;
}

Backend::~Backend() {
  if (!is_foreign() && table_.shutdown != nullptr) table_.shutdown();
}

int32_t Backend::device_count() const {
  check_process();
  int32_t count = 0;
  check(table_.device_count(&count), "device_count");
  return count;
}

int32_t Backend::device_of(const void* pointer) const {
  check_process();
  mindckpt_pointer_info info{};
  check(table_.pointer_info(pointer, &info), "pointer_info");
  return info.kind == MINDCKPT_POINTER_DEVICE ? info.device : -1;
}

void Backend::check(mindckpt_status status, const char* call, int32_t device) const {
  if (status == MINDCKPT_OK) return;
  check_process();
  throw Error(ErrorKind::kDevice, failure(*this, status, call, device, {}));
}

void Backend::check_process() const {
  if (!is_foreign()) return;
  throw Error(ErrorKind::kUnavailable,
              name_ +
                  " can't be used in a process that was forked after it was used: start "
                  "processes by the \"spawn\" method");
}

bool Backend::is_foreign() const noexcept { return process_ != process_id(); }

// ---- Device

Device::Device(Backend& backend, int32_t ordinal)
    : backend_(backend), ordinal_(ordinal), name_(backend.name() + ':' + std::to_string(ordinal)) {
  backend_.check_process();
  check(backend_.table().attach(ordinal_), "attach");
}

Device::~Device() {
  if (!backend_.is_foreign()) backend_.table().detach(ordinal_);
}

Device::MemoryInfo Device::memory_info() const {
  const DeviceBinding binding(*this);
  MemoryInfo info{};
  check(backend_.table().memory_info(&info.free_nbytes, &info.total_nbytes), "memory_info");
  return info;
}

void Device::sync() const {
  if (backend_.table().device_sync == nullptr) return;
  const DeviceBinding binding(*this);
  check(backend_.table().device_sync(), "device_sync");
}

// ---- DeviceBinding

DeviceBinding::DeviceBinding(const Device& device) : device_(device) {
  device_.backend().check_process();
  device_.check(table_of(device_).bind_thread(device_.ordinal()), "bind_thread");
}

DeviceBinding::~DeviceBinding() {
  if (!device_.backend().is_foreign()) table_of(device_).unbind_thread(device_.ordinal());
}

// ---- DeviceEvent

DeviceEvent::DeviceEvent(const Device& device, EventUse use) : device_(&device) {
  const DeviceBinding binding(device);
  device.check(table_of(device).event_create(&handle_, static_cast<uint32_t>(use)), "event_create");
}

DeviceEvent::~DeviceEvent() {
  if (handle_ == nullptr) return;
  if (const QuietBinding binding(*device_); binding) table_of(*device_).event_destroy(handle_);
}

DeviceEvent::DeviceEvent(DeviceEvent&& other) noexcept
    : device_(other.device_), handle_(std::exchange(other.handle_, nullptr)) {}

DeviceEvent& DeviceEvent::operator=(DeviceEvent&& other) noexcept {
  DeviceEvent taken(std::move(other));
  std::swap(device_, taken.device_);
  std::swap(handle_, taken.handle_);
  return *this;
}

void DeviceEvent::record(void* stream) {
  device_->check(table_of(*device_).event_record(handle_, stream), "event_record");
}

bool DeviceEvent::happened() const {
  const mindckpt_status status = table_of(*device_).event_query(handle_);
  if (status == MINDCKPT_NOT_READY) return false;
  device_->check(status, "event_query");
  return true;
}

void DeviceEvent::sync() const {
  device_->check(table_of(*device_).event_sync(handle_), "event_sync");
}

// ---- DeviceStream

DeviceStream::DeviceStream(const Device& device, CopyDirection direction) : device_(&device) {
  const DeviceBinding binding(device);
  device.check(table_of(device).stream_create(&handle_, static_cast<int32_t>(direction)),
               "stream_create");
}

DeviceStream::~DeviceStream() {
  if (handle_ == nullptr) return;
  drain();
  const QuietBinding binding(*device_);
  if (binding) table_of(*device_).stream_destroy(handle_);
}

void DeviceStream::drain() const noexcept {
  // Once more when a call fails: memory that a copy still writes to must not be given away. A
  // driver that fails for good copies nothing any more.
  for (int attempt = 0; attempt < 2; ++attempt) {
    const QuietBinding binding(*device_);
    if (binding && table_of(*device_).stream_sync(handle_) == MINDCKPT_OK) return;
  }
}

DeviceStream::DeviceStream(DeviceStream&& other) noexcept
    : device_(other.device_), handle_(std::exchange(other.handle_, nullptr)) {}

DeviceStream& DeviceStream::operator=(DeviceStream&& other) noexcept {
  DeviceStream taken(std::move(other));
  std::swap(device_, taken.device_);
  std::swap(handle_, taken.handle_);
  return *this;
}

void DeviceStream::wait(const DeviceEvent& event) {
  device_->check(table_of(*device_).stream_wait_event(handle_, event.get()), "stream_wait_event");
}

void DeviceStream::start_after(const Producer& producer) {
  const DeviceBinding binding(*producer.device);
  check_not_capturing(*producer.device, producer.stream);
  DeviceEvent ready(*producer.device, EventUse::kStream);
  ready.record(producer.stream);
  wait(ready);
}

void DeviceStream::sync() const {
  device_->check(table_of(*device_).stream_sync(handle_), "stream_sync");
}

namespace {

// Calls act with each part of a copy that the driver can do at once.
template <typename Act>
void for_each_part(const mindckpt_device_backend& table, DeviceStream::Copy copy,
                   CopyDirection direction, Act&& act) {
  const bool in_pieces = table.host_register != nullptr && direction != CopyDirection::kOnDevice;
  while (copy.nbytes > 0) {
    const void* const host = direction == CopyDirection::kToHost ? copy.to : copy.from;
    const size_t part = in_pieces ? std::min(copy.nbytes, nbytes_to_bound(host)) : copy.nbytes;
    act(DeviceStream::Copy{copy.to, copy.from, part});
    copy.to = static_cast<std::byte*>(copy.to) + part;
    copy.from = static_cast<const std::byte*>(copy.from) + part;
    copy.nbytes -= part;
  }
}

}  // namespace

void DeviceStream::copy(void* to, const void* from, size_t nbytes, CopyDirection direction) {
  const mindckpt_device_backend& table = table_of(*device_);
  for_each_part(table, {to, from, nbytes}, direction, [&](const Copy& part) {
    device_->check(
        table.copy_async(part.to, part.from, part.nbytes, static_cast<int32_t>(direction), handle_),
        "copy_async");
  });
}

void DeviceStream::copy(const std::vector<Copy>& copies, CopyDirection direction) {
  const mindckpt_device_backend& table = table_of(*device_);
  if (table.copy_batch_async == nullptr || copies.size() == 1) {
    for (const Copy& one : copies) copy(one.to, one.from, one.nbytes, direction);
    return;
  }
  std::vector<void*> to;
  std::vector<const void*> from;
  std::vector<size_t> nbytes;
  to.reserve(copies.size());
  from.reserve(copies.size());
  nbytes.reserve(copies.size());
  for (const Copy& one : copies) {
    for_each_part(table, one, direction, [&](const Copy& part) {
      to.push_back(part.to);
      from.push_back(part.from);
      nbytes.push_back(part.nbytes);
    });
  }
  if (to.empty()) return;
  device_->check(table.copy_batch_async(to.data(), from.data(), nbytes.data(), to.size(),
                                        static_cast<int32_t>(direction), handle_),
                 "copy_batch_async");
}

// ---- Streams of the caller's

void check_not_capturing(const Device& device, void* stream) {
  if (table_of(device).stream_is_capturing == nullptr) return;
  int32_t capturing = 0;
  device.check(table_of(device).stream_is_capturing(stream, &capturing), "stream_is_capturing");
  if (capturing == 0) return;
  throw Error(ErrorKind::kInvalidArgument,
              device.name() +
                  ": the stream is being captured into a graph, where nothing of a "
                  "checkpoint may go");
}

void stream_wait(const Device& device, void* stream, const DeviceEvent& event) {
  check_not_capturing(device, stream);
  device.check(table_of(device).stream_wait_event(stream, event.get()), "stream_wait_event");
}

// ---- PinnedMemory

PinnedMemory::PinnedMemory(const Device& device, size_t nbytes) : device_(&device) {
  if (nbytes == 0) return;
  const DeviceBinding binding(device);
  const mindckpt_device_backend& table = table_of(device);
  if (table.host_register == nullptr) {
    void* memory = nullptr;
    check_allocation(device, table.host_alloc(&memory, nbytes), "host_alloc", nbytes,
                     "pinned host memory");
    data_ = static_cast<std::byte*>(memory);
    nbytes_ = nbytes;
    return;
  }
  const size_t mapped = round_to_pages(nbytes);
  std::byte* const pages = mapped > 0 ? map_pages(mapped) : nullptr;
  if (pages == nullptr) {
    throw Error(ErrorKind::kDevice, device.name() + ": out of memory for " +
                                        std::to_string(nbytes) +
                                        " bytes of pinned host memory: the system has no more");
  }
  size_t registered = 0;
  mindckpt_status status = MINDCKPT_OK;
  for_each_piece(pages, mapped, [&](std::byte* piece, size_t piece_nbytes) {
    status = table.host_register(piece, piece_nbytes);
    if (status == MINDCKPT_OK) registered += piece_nbytes;
    return status == MINDCKPT_OK;
  });
  try {
    check_allocation(device, status, "host_register", nbytes, "pinned host memory");
  } catch (...) {
    unpin_pages(table, pages, registered, mapped);
    throw;
  }
  data_ = pages;
  nbytes_ = nbytes;
  registered_ = true;
}

PinnedMemory::~PinnedMemory() {
  if (data_ == nullptr) return;
  const QuietBinding binding(*device_);
  if (!binding) return;
  const mindckpt_device_backend& table = table_of(*device_);
  if (registered_) {
    const size_t mapped = round_to_pages(nbytes_);
    unpin_pages(table, data_, mapped, mapped);
  } else {
    table.host_free(data_);
  }
}

PinnedMemory::PinnedMemory(PinnedMemory&& other) noexcept { swap(other); }

PinnedMemory& PinnedMemory::operator=(PinnedMemory&& other) noexcept {
  PinnedMemory taken(std::move(other));
  swap(taken);
  return *this;
}

void PinnedMemory::swap(PinnedMemory& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(nbytes_, other.nbytes_);
  std::swap(registered_, other.registered_);
}

// ---- DeviceMemory

DeviceMemory::DeviceMemory(const Device& device, size_t nbytes) : device_(&device) {
  if (nbytes == 0) return;
  const DeviceBinding binding(device);
  void* memory = nullptr;
  check_allocation(device, table_of(device).device_alloc(&memory, nbytes), "device_alloc", nbytes,
                   "the device's memory");
  data_ = static_cast<std::byte*>(memory);
  nbytes_ = nbytes;
}

DeviceMemory::~DeviceMemory() {
  if (data_ == nullptr) return;
  if (const QuietBinding binding(*device_); binding) table_of(*device_).device_free(data_);
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept { swap(other); }

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  DeviceMemory taken(std::move(other));
  swap(taken);
  return *this;
}

void DeviceMemory::swap(DeviceMemory& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(nbytes_, other.nbytes_);
}

}  // namespace mindckpt
