#pragma once

#include "base/memory.h"
#include "image/file_image.h"

namespace mindckpt {

// Copies every payload of the image into one new buffer, on `num_threads` threads, and points the
// image there: the tensors may change afterwards. The image needs the returned buffer while it is
// used.
Buffer snapshot_payloads(FileImage& image, int num_threads);

}  // namespace mindckpt
