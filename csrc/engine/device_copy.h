#pragma once

#include <optional>

#include "base/bytes.h"
#include "base/workers.h"
#include "device/staging.h"

namespace mindckpt {

// Copies between a device's memory and ordinary host memory, through the device's staging pool, and
// returns when the bytes are there. `stream`, where there is one, is the caller's: what it holds
// comes first. Throws Error(kDevice), Error(kCancelled).
void copy_from_device(DeviceStaging& staging, std::optional<void*> stream, const std::byte* from,
                      ByteSpan to, const CancelFlag& cancel);
void copy_to_device(DeviceStaging& staging, std::optional<void*> stream, ByteView from,
                    std::byte* to, const CancelFlag& cancel);

}  // namespace mindckpt
