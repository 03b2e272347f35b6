#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "device/device.h"

namespace mindckpt {

// The contiguous memory of a tensor on a device, kept alive by its owner.
class DeviceArray {
 public:
  DeviceArray(const Device& device, uintptr_t pointer, uint64_t nbytes,
              std::optional<uintptr_t> stream, pybind11::object owner);

  // By the pointer, or on the device of that name; nullptr where it is no device's.
  static std::unique_ptr<DeviceArray> find(uintptr_t pointer, uint64_t nbytes,
                                           std::optional<uintptr_t> stream, pybind11::object owner,
                                           const std::optional<std::string>& name);
  // New memory of a device, owned by what this returns. Who gets at its pointer may write to it in
  // any stream.
  static std::unique_ptr<DeviceArray> allocate(const std::string& name, uint64_t nbytes);

  // Takes the stream that the tensor's array interface names now. False where that does not show
  // this memory, or another length of it.
  bool refresh(const pybind11::object& value);

  // Whether anything on the device may be writing to it. Memory that a framework shows without a
  // stream holds its values already.
  bool has_unknown_writer() const { return is_ours_ && !stream_; }

  // Waits for what its stream holds; with an unknown writer for all that is on the device.
  void sync() const;
  // A copy of the bytes, and the other way round, after what sync() waits for.
  pybind11::array_t<uint8_t> to_host() const;
  void assign(const pybind11::array& from) const;

  const Device& device() const { return *device_; }
  const std::string& device_name() const { return device_->name(); }
  int32_t ordinal() const { return device_->ordinal(); }
  int32_t dlpack_device_type() const { return device_->backend().dlpack_device_type(); }
  size_t copy_alignment() const { return device_->backend().copy_alignment(); }
  uintptr_t pointer() const { return pointer_; }
  uint64_t nbytes() const { return nbytes_; }
  std::optional<void*> stream() const {
    if (!stream_) return std::nullopt;
    return reinterpret_cast<void*>(*stream_);
  }
  std::optional<uintptr_t> stream_number() const { return stream_; }

 private:
  const Device* device_;
  uintptr_t pointer_;
  uint64_t nbytes_;
  std::optional<uintptr_t> stream_;
  pybind11::object owner_;
  bool is_ours_ = false;  // made by allocate()
};

// "cuda:1", or "cuda" for its first. Releases the GIL. Throws Error(kUnavailable).
const Device& named_device(const std::string& name);

}  // namespace mindckpt
