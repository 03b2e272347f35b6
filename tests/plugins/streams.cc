#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "simulation.h"
#include "state.h"
#include "stream.h"

namespace stand_in {
namespace {

// A copy moves in pieces, and sleeps between them where it is this far ahead of its time.
constexpr int64_t kAheadNanoseconds = 200'000;
constexpr size_t kPieceBytes = 64 << 10;
constexpr size_t kMostPieces = 16;

std::shared_ptr<Stream> thread_stream(int32_t device) {
  thread_local std::array<std::shared_ptr<Stream>, kMostDevices> own;
  std::shared_ptr<Stream>& stream = own[static_cast<size_t>(device)];
  if (!stream) {
    stream = std::make_shared<Stream>(device, Stream::Kind::kBlocking, Owner::kFramework);
    State& all = state();
    const std::lock_guard lock(all.streams_mutex);
    std::erase_if(all.thread_streams, [](const auto& other) { return other.expired(); });
    all.thread_streams.push_back(stream);
  }
  return stream;
}

// Those that the device's default stream and they themselves wait for each other.
std::vector<std::shared_ptr<Stream>> blocking_streams(int32_t device) {
  State& all = state();
  std::vector<std::shared_ptr<Stream>> found;
  const std::lock_guard lock(all.streams_mutex);
  for (const auto& [handle, stream] : all.streams) {
    if (stream->kind() == Stream::Kind::kBlocking && stream->device() == device) {
      found.push_back(stream);
    }
  }
  for (const auto& weak : all.thread_streams) {
    auto stream = weak.lock();
    if (stream && stream->device() == device) found.push_back(std::move(stream));
  }
  return found;
}

// Whether anything may be put into it at present.
Result check_open(Stream& stream) {
  if (stream.capturing) return refuse(Result::kCapturing, "the stream is being captured");
  if (stream.kind() != Stream::Kind::kDefault) return Result::kOk;
  for (const auto& other : blocking_streams(stream.device())) {
    if (other->capturing) {
      return refuse(Result::kCaptureImplicit,
                    "the default stream, while a stream that it waits for is being captured");
    }
  }
  return Result::kOk;
}

struct Piece {
  std::byte* to;
  const std::byte* from;
  size_t nbytes;
};

struct Transfer {
  Engine* engine;
  std::vector<Piece> pieces;
  std::vector<Use> uses;
  size_t nbytes = 0;

  void add(std::byte* to, const std::byte* from, size_t count) {
    const size_t step = std::max(kPieceBytes, (count + kMostPieces - 1) / kMostPieces);
    for (size_t at = 0; at < count; at += step) {
      pieces.push_back({to + at, from + at, std::min(step, count - at)});
    }
    nbytes += count;
  }

  void run(Stream& stream) const {
    engine->copied.fetch_add(nbytes, kRelaxed);
    const int64_t duration = engine->duration(nbytes);
    if (duration <= 0) {
      for (const Piece& piece : pieces) std::memmove(piece.to, piece.from, piece.nbytes);
      stream.pass_until(now());
      return;
    }
    const int64_t begin = engine->reserve(stream.time(), duration);
    const int64_t latency = std::min(engine->latency(), duration);
    size_t moved = 0;
    if (begin + latency - now() > kAheadNanoseconds) stream.pass_until(begin + latency);
    for (const Piece& piece : pieces) {
      std::memmove(piece.to, piece.from, piece.nbytes);
      moved += piece.nbytes;
      const double part = static_cast<double>(moved) / static_cast<double>(nbytes);
      const int64_t until =
          begin + latency + static_cast<int64_t>(part * static_cast<double>(duration - latency));
      if (until - now() > kAheadNanoseconds) stream.pass_until(until);
    }
    stream.pass_until(begin + duration);
  }
};

// From where the first row begins to where the last one ends.
size_t extent(const Copy& copy, size_t pitch) {
  return copy.rows == 0 ? 0 : (copy.rows - 1) * pitch + copy.nbytes;
}

std::shared_ptr<Event> find_event(void* handle) {
  State& all = state();
  const std::lock_guard lock(all.events_mutex);
  const auto found = all.events.find(handle);
  if (found != all.events.end()) return found->second;
  explain(name_of(handle) + " is no event");
  return nullptr;
}

// The device of the memory, for what the framework puts into a default stream.
int32_t device_of_memory(const void* pointer) {
  const PointerInfo info = pointer_info(pointer);
  if (info.kind != PointerInfo::Kind::kDevice) die(name_of(pointer) + " is not device memory");
  return info.device;
}

std::shared_ptr<Stream> framework_stream(int32_t device, void* handle) {
  auto stream = find_stream(device, handle);
  if (!stream) die(explanation());
  return stream;
}

}  // namespace

std::shared_ptr<Stream> find_stream(int32_t device, void* handle) {
  State& all = state();
  const auto value = reinterpret_cast<uintptr_t>(handle);
  if (value <= 1) return {std::shared_ptr<void>(), all.device(device).default_stream.get()};
  if (value == 2) return thread_stream(device);
  const std::lock_guard lock(all.streams_mutex);
  const auto found = all.streams.find(handle);
  if (found != all.streams.end()) return found->second;
  explain(name_of(handle) + " is no stream");
  return nullptr;
}

Result order(Stream& stream) {
  if (const Result open = check_open(stream); open != Result::kOk) return open;
  Device& device = state().device(stream.device());
  if (stream.kind() == Stream::Kind::kDefault) {
    device.default_used = true;
    for (const auto& other : blocking_streams(stream.device())) {
      if (!other->idle()) stream.wait(other->mark(false), false);
    }
  } else if (stream.kind() == Stream::Kind::kBlocking && device.default_used) {
    if (!device.default_stream->idle()) stream.wait(device.default_stream->mark(false), false);
  }
  return Result::kOk;
}

// ---- Streams

Result create_stream(int32_t device, bool non_blocking, Owner owner, void** stream) {
  State& all = state();
  if (!all.has(device)) return refuse(Result::kInvalidDevice, "no such device");
  if (stream == nullptr) return refuse(Result::kInvalidValue, "null");
  auto created = std::make_shared<Stream>(
      device, non_blocking ? Stream::Kind::kNonBlocking : Stream::Kind::kBlocking, owner);
  *stream = created.get();
  const std::lock_guard lock(all.streams_mutex);
  all.streams.emplace(*stream, std::move(created));
  return Result::kOk;
}

Result destroy_stream(void* stream, Owner owner) {
  State& all = state();
  std::shared_ptr<Stream> taken;
  {
    const std::lock_guard lock(all.streams_mutex);
    const auto found = all.streams.find(stream);
    if (found == all.streams.end() || found->second->owner() != owner) {
      return refuse(Result::kInvalidHandle, name_of(stream) + " is no stream of the caller's");
    }
    if (found->second->paused()) die("a paused stream is destroyed, which would wait for ever");
    taken = std::move(found->second);
    all.streams.erase(found);
  }
  taken->mark(false)->wait();
  return Result::kOk;
}

Result device_of_stream(void* stream, int32_t device, int32_t* found) {
  const auto of = find_stream(device, stream);
  if (!of) return Result::kInvalidHandle;
  *found = of->device();
  return Result::kOk;
}

Result sync_stream(int32_t device, void* stream) { return sync_stream_for(device, stream, -1); }

Result sync_stream_for(int32_t device, void* stream, int64_t milliseconds) {
  const auto found = find_stream(device, stream);
  if (!found) return Result::kInvalidHandle;
  if (const Result open = check_open(*found); open != Result::kOk) return open;
  const auto marker = found->mark(false);
  if (milliseconds < 0) {
    marker->wait();
  } else if (!marker->wait_for(milliseconds)) {
    return refuse(Result::kNotReady, "the stream has not ended in that time");
  }
  return Result::kOk;
}

Result sync_device(int32_t device) {
  State& all = state();
  std::vector<std::shared_ptr<Stream>> found = blocking_streams(device);
  {
    const std::lock_guard lock(all.streams_mutex);
    for (const auto& [handle, stream] : all.streams) {
      if (stream->kind() == Stream::Kind::kNonBlocking && stream->device() == device) {
        found.push_back(stream);
      }
    }
  }
  found.push_back(find_stream(device, nullptr));
  for (const auto& stream : found) {
    if (stream->capturing) return refuse(Result::kCapturing, "a stream is being captured");
  }
  std::vector<std::shared_ptr<Marker>> ends;
  for (const auto& stream : found) {
    if (!stream->idle()) ends.push_back(stream->mark(false));
  }
  for (const auto& end : ends) end->wait();
  return Result::kOk;
}

Result is_capturing(int32_t device, void* stream, bool* capturing) {
  const auto found = find_stream(device, stream);
  if (!found) return Result::kInvalidHandle;
  *capturing = found->capturing;
  const Result open = check_open(*found);
  return open == Result::kCapturing ? Result::kOk : open;
}

void set_capturing(void* stream, bool capturing) {
  if (framework_stream(0, stream)->capturing.exchange(capturing) == capturing) return;
  state().captures.fetch_add(capturing ? 1 : -1, kRelaxed);
}

bool is_any_capturing() { return state().captures.load(kRelaxed) > 0; }

Result put_fill(int32_t device, void* stream, void* pointer, int value, size_t nbytes) {
  const auto found = find_stream(device, stream);
  if (!found) return Result::kInvalidHandle;
  std::shared_ptr<Region> region;
  std::byte* bytes = nullptr;
  if (nbytes > 0) {
    const Result known = use_memory(pointer, nbytes, true, &region, &bytes);
    if (known != Result::kOk) return known;
  }
  if (const Result open = order(*found); open != Result::kOk) return open;
  if (nbytes == 0) return Result::kOk;
  found->put(
      [use = std::make_shared<Use>(std::move(region)), bytes, value, nbytes](Stream& own) {
        std::memset(bytes, value, nbytes);
        own.pass_until(now());
      },
      true);
  return Result::kOk;
}

void put_write(void* stream, void* pointer, const void* from, size_t nbytes) {
  if (nbytes == 0) return;
  const auto found = framework_stream(device_of_memory(pointer), stream);
  std::shared_ptr<Region> region;
  std::byte* bytes = nullptr;
  require(use_memory(pointer, nbytes, true, &region, &bytes), "stand_in_stream_write");
  require(order(*found), "stand_in_stream_write");
  const auto* const first = static_cast<const std::byte*>(from);
  found->put(
      [use = std::make_shared<Use>(std::move(region)), bytes,
       copy = std::vector<std::byte>(first, first + nbytes)](Stream& own) {
        std::memcpy(bytes, copy.data(), copy.size());
        own.pass_until(now());
      },
      true);
}

void put_delay(void* stream, double seconds) {
  const auto found = framework_stream(0, stream);
  require(order(*found), "stand_in_stream_delay");
  found->put([seconds](Stream& own) { own.pass_until(own.time() + nanoseconds(seconds)); }, false);
}

void pause(void* stream) {
  const auto found = framework_stream(0, stream);
  require(order(*found), "stand_in_stream_pause");
  found->pause();
}

void resume(void* stream) { framework_stream(0, stream)->resume(); }

Result put_copies(int32_t device, void* stream, const std::vector<Copy>& copies,
                  Direction direction) {
  const auto found = find_stream(device, stream);
  if (!found) return Result::kInvalidHandle;
  const auto index = static_cast<size_t>(direction);
  if (index >= kNumDirections) return refuse(Result::kInvalidValue, "no such direction");
  auto transfer = std::make_shared<Transfer>();
  transfer->engine = &state().device(found->device()).engines[index];
  for (const Copy& copy : copies) {
    if (copy.nbytes == 0 || copy.rows == 0) continue;
    if (copy.rows > 1 && (copy.to_pitch < copy.nbytes || copy.from_pitch < copy.nbytes)) {
      return refuse(Result::kInvalidValue, "rows that overlap");
    }
    std::shared_ptr<Region> to;
    std::shared_ptr<Region> from;
    std::byte* to_bytes = nullptr;
    std::byte* from_bytes = nullptr;
    Result known = use_memory(copy.to, extent(copy, copy.to_pitch), direction != Direction::kToHost,
                              &to, &to_bytes);
    if (known != Result::kOk) return known;
    known = use_memory(copy.from, extent(copy, copy.from_pitch), direction != Direction::kToDevice,
                       &from, &from_bytes);
    if (known != Result::kOk) return known;
    for (const auto& region : {to, from}) {
      if (region->kind == Region::Kind::kDevice && region->device != found->device()) {
        return refuse(Result::kInvalidValue, "memory of device " + std::to_string(region->device) +
                                                 ", a stream of " +
                                                 std::to_string(found->device()));
      }
    }
    transfer->uses.emplace_back(std::move(to));
    transfer->uses.emplace_back(std::move(from));
    for (size_t row = 0; row < copy.rows; ++row) {
      transfer->add(to_bytes + row * copy.to_pitch, from_bytes + row * copy.from_pitch,
                    copy.nbytes);
    }
  }
  if (const Result open = order(*found); open != Result::kOk) return open;
  if (transfer->nbytes > 0) {
    found->put([transfer = std::move(transfer)](Stream& own) { transfer->run(own); }, true);
  }
  return Result::kOk;
}

// ---- Events

Result create_event(int32_t device, void** event) {
  if (event == nullptr) return refuse(Result::kInvalidValue, "null");
  auto created = std::make_shared<Event>();
  created->device = device;
  *event = created.get();
  State& all = state();
  const std::lock_guard lock(all.events_mutex);
  all.events.emplace(*event, std::move(created));
  return Result::kOk;
}

Result destroy_event(void* event) {
  State& all = state();
  const std::lock_guard lock(all.events_mutex);
  if (all.events.erase(event) > 0) return Result::kOk;
  return refuse(Result::kInvalidHandle, name_of(event) + " is no event");
}

Result record_event(int32_t device, void* event, void* stream) {
  const auto of = find_event(event);
  if (!of) return Result::kInvalidHandle;
  const auto in = find_stream(device, stream);
  if (!in) return Result::kInvalidHandle;
  if (of->device != in->device()) {
    return refuse(Result::kInvalidHandle, "an event of device " + std::to_string(of->device) +
                                              ", a stream of " + std::to_string(in->device()));
  }
  if (const Result open = order(*in); open != Result::kOk) return open;
  const std::lock_guard lock(of->mutex);
  of->latest = in->mark(true);
  return Result::kOk;
}

Result wait_for_event(int32_t device, void* stream, void* event) {
  const auto of = find_event(event);
  if (!of) return Result::kInvalidHandle;
  const auto in = find_stream(device, stream);
  if (!in) return Result::kInvalidHandle;
  if (const Result open = order(*in); open != Result::kOk) return open;
  if (auto marker = of->marker()) in->wait(std::move(marker), true);
  return Result::kOk;
}

bool was_recorded(void* event) {
  const auto of = find_event(event);
  return of && of->marker();
}

Result query_event(void* event, Result if_never) {
  const auto of = find_event(event);
  if (!of) return Result::kInvalidHandle;
  const auto marker = of->marker();
  if (!marker) return if_never;
  return marker->reached() ? Result::kOk : Result::kNotReady;
}

Result sync_event(void* event) {
  const auto of = find_event(event);
  if (!of) return Result::kInvalidHandle;
  if (const auto marker = of->marker()) marker->wait();
  return Result::kOk;
}

}  // namespace stand_in
