#pragma once

#include <cstdint>
#include <span>

#include "base/bytes.h"

namespace mindckpt {

// Where a file's bytes land. Destroyed uncommitted, it leaves nothing behind.
class Sink {
 public:
  virtual ~Sink() = default;

  // Writes `pieces`, one after the other, at their final offset. Safe from any thread; ranges must
  // not overlap. Throws Error(kIo) with path and errno; Error(kInvalidArgument) for pieces that
  // can't be read, if the system notices.
  virtual void write_at(uint64_t offset, std::span<const ByteView> pieces) = 0;

  // Brings what was written to storage, where that is wanted. May take long. Throws Error(kIo).
  virtual void sync() = 0;

  // Publishes the file under its name, after sync() and once. Throws Error(kIo).
  virtual void commit() = 0;
};

}  // namespace mindckpt
