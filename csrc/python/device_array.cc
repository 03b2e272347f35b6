#include "python/device_array.h"

#include <charconv>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/memory.h"
#include "base/workers.h"
#include "engine/device_copy.h"
#include "python/array_interface.h"
#include "python/gil.h"
#include "python/runtime.h"

namespace py = pybind11;

namespace mindckpt {

DeviceArray::DeviceArray(const Device& device, uintptr_t pointer, uint64_t nbytes,
                         std::optional<uintptr_t> stream, py::object owner)
    : device_(&device),
      pointer_(pointer),
      nbytes_(nbytes),
      stream_(stream),
      owner_(std::move(owner)) {}

std::unique_ptr<DeviceArray> DeviceArray::find(uintptr_t pointer, uint64_t nbytes,
                                               std::optional<uintptr_t> stream, py::object owner,
                                               const std::optional<std::string>& name) {
  const Device* device = nullptr;
  if (name) {
    device = &named_device(*name);
  } else {
    const GilRelease release;
    device = runtime().devices.device_of(reinterpret_cast<const void*>(pointer));
  }
  if (device == nullptr) return nullptr;
  return std::make_unique<DeviceArray>(*device, pointer, nbytes, stream, std::move(owner));
}

std::unique_ptr<DeviceArray> DeviceArray::allocate(const std::string& name, uint64_t nbytes) {
  const Device& device = named_device(name);
  std::unique_ptr<DeviceMemory> memory;
  {
    const GilRelease release;
    memory = std::make_unique<DeviceMemory>(device, nbytes);
  }
  const auto pointer = reinterpret_cast<uintptr_t>(memory->data());
  py::capsule owner(memory.get(), [](void* held) { delete static_cast<DeviceMemory*>(held); });
  memory.release();
  auto array =
      std::make_unique<DeviceArray>(device, pointer, nbytes, std::nullopt, std::move(owner));
  array->is_ours_ = true;
  return array;
}

bool DeviceArray::refresh(const py::object& value) {
  const std::optional<ArrayInterface> shown = ArrayInterface::read(value);
  if (!shown || shown->pointer != pointer_ || shown->nbytes != nbytes_) return false;
  stream_ = shown->stream;
  return true;
}

void DeviceArray::sync() const {
  const GilRelease release;
  if (has_unknown_writer()) device_->sync();
  if (!stream_) return;
  const DeviceBinding binding(*device_);
  device_->check(device_->backend().table().stream_sync(*stream()), "stream_sync");
}

py::array_t<uint8_t> DeviceArray::to_host() const {
  auto buffer = std::make_unique<Buffer>(nbytes_);
  {
    const GilRelease release;
    const CancelFlag never{false};
    if (has_unknown_writer()) device_->sync();
    copy_from_device(runtime().staging.of(*device_), stream(),
                     reinterpret_cast<const std::byte*>(pointer_), buffer->span(), never);
  }
  auto* const data = reinterpret_cast<uint8_t*>(buffer->data());
  const py::capsule owner(buffer.get(), [](void* held) { delete static_cast<Buffer*>(held); });
  buffer.release();
  return py::array_t<uint8_t>({static_cast<py::ssize_t>(nbytes_)}, {}, data, owner);
}

void DeviceArray::assign(const py::array& from) const {
  if ((from.flags() & py::array::c_style) == 0 || static_cast<uint64_t>(from.nbytes()) != nbytes_) {
    throw py::value_error("only a contiguous array of the same length can be assigned");
  }
  const ByteView bytes(static_cast<const std::byte*>(from.data()), nbytes_);
  const GilRelease release;
  const CancelFlag never{false};
  if (has_unknown_writer()) device_->sync();
  copy_to_device(runtime().staging.of(*device_), stream(), bytes,
                 reinterpret_cast<std::byte*>(pointer_), never);
}

const Device& named_device(const std::string& name) {
  const size_t colon = name.find(':');
  int32_t ordinal = 0;
  if (colon != std::string::npos) {
    const char* const end = name.data() + name.size();
    const auto parsed = std::from_chars(name.data() + colon + 1, end, ordinal);
    if (parsed.ec != std::errc() || parsed.ptr != end || ordinal < 0) {
      throw py::value_error("no device is called '" + name + "'");
    }
  }
  const GilRelease release;
  return runtime().devices.device(std::string_view(name).substr(0, colon), ordinal);
}

}  // namespace mindckpt
