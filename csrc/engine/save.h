#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/workers.h"
#include "cipher/cipher.h"
#include "engine/block_feed.h"
#include "engine/stats.h"
#include "engine/trace.h"
#include "image/file_image.h"
#include "storage/sink.h"

namespace mindckpt {

// How an image's blocks are encrypted, each as a run of frames; a plain file has none of it.
struct SealPlan {
  std::shared_ptr<const Cipher> cipher;  // nullptr: plain
  Iv base{};                             // of the run of frame numbers

  // Of the file that the image becomes. Every block but the last has the same length.
  uint64_t file_nbytes(const FileImage& image) const;
  uint64_t block_begin(const FileImage& image, uint64_t block) const;
};

// The block size when the caller does not say: large enough to keep system calls and headers cheap,
// small enough for a block to stay in a core's cache between the stages, and for the two blocks
// that each thread may hold to stay in bounds together. In the file a block (sealed: its frames) is
// whole pages, because a write that begins inside a page costs a read or a second visit of it.
uint64_t default_block_bytes(const Cipher* cipher, int num_threads);

struct FrameSizes {
  uint64_t block_bytes;
  uint64_t frame_bytes;
};

// How blocks of at most so many bytes are cut in frames: into as many as the cipher works on at
// once, unless they would be tiny. Then a block is whole pages in the file.
FrameSizes pick_frames(const Cipher& cipher, uint64_t most_block_bytes);

// How a save is run, and what watches it. All are borrowed.
struct SaveRun {
  int num_threads;
  const CancelFlag& cancel;
  std::atomic<uint64_t>& written;  // counts the file's bytes as they are written
  // Called once each, from any thread: nothing is read from the payloads any more; every byte is
  // with the sink. May be empty.
  std::function<void()> on_staged;
  std::function<void()> on_written;
  Trace* trace = nullptr;  // where each stage of each block is noted
};

// Sends every block of the image through fill, checksum, seal and write, and publishes the file.
// Blocks are independent; each one's place in the file is known beforehand. Fills in the stats'
// counts and stages. Throws the first error; then nothing is published. The image's payloads must
// not change until they are staged.
void save(FileImage& image, const SealPlan& seal, BlockFeed& feed, Sink& sink, const SaveRun& run,
          SaveStats& stats);

}  // namespace mindckpt
