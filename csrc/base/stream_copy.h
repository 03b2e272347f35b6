#pragma once

#include "base/bytes.h"

namespace mindckpt {

// Copies what nobody reads soon, of any length and alignment, to `to`, which has exactly its length
// and does not overlap it. Where the processor can, it is written past the caches: else every line
// is read from memory before it is written there.
void stream_copy(ByteView from, ByteSpan to);

}  // namespace mindckpt
