#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <vector>

#include "device/device.h"
#include "image/file_image.h"

namespace mindckpt {

// What a save's records become for the engine. `kept` keeps the payloads alive.
struct Payloads {
  std::vector<TensorRef> tensors;
  pybind11::list kept;
  // Where there are payloads on devices: the first one's, the streams that they are made in, each
  // once, and whether some payload's is not among them.
  const Device* first_device = nullptr;
  std::vector<Producer> producers;
  bool has_unknown_producer = false;
  // Devices with memory of ours, each once, where no stream is known for it.
  std::vector<const Device*> synced_devices;
};

// A record is (name, type, dims, payload), as mindckpt/_core.pyi says. `resolve` is a function that
// turns a record whose payload is a framework's array into one that has what is read of it; it is
// called for those that ArrayInterface does not understand. `stream`, where there is one, is what
// the tensors on devices are made in, beside what each of them says.
Payloads read_records(const pybind11::sequence& records, const pybind11::function& resolve,
                      std::optional<uintptr_t> stream);

}  // namespace mindckpt
