#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/workers.h"
#include "cipher/cipher.h"
#include "cipher/sealed_source.h"
#include "engine/copy_lanes.h"
#include "image/index.h"
#include "storage/source.h"

namespace mindckpt {

// Where an entry's content goes.
struct Target {
  size_t entry;
  std::byte* data;                 // room for the entry's nbytes
  const Device* device = nullptr;  // whose memory that is; nullptr: the host's
};

// How a load is run. All are borrowed.
struct LoadRun {
  int num_threads;
  const CancelFlag& cancel;
  // For targets in devices' memory: what is pinned, and the streams that may still use that memory.
  // The devices' copies take any alignment (Backend::copy_alignment is 1).
  StagingPools* staging = nullptr;
  std::vector<Producer> producers;
};

// An open checkpoint: its records are found, its payloads not read yet.
class CheckpointFile {
 public:
  // `cipher` is nullptr for a plain file. Throws Error(kIo), Error(kFormat), Error(kDecryption),
  // Error(kCancelled).
  // `cancel` is borrowed until this returns. Of a file in a mode that does not authenticate, all
  // that depends on decrypted bytes fails alike.
  CheckpointFile(const std::string& path, std::shared_ptr<const Cipher> cipher,
                 const CancelFlag* cancel = nullptr);

  const std::vector<Entry>& entries() const noexcept { return index_.entries; }
  bool has_crc() const noexcept { return index_.crc.has_value(); }
  // Whether seal records vouch for the order, count and length of its blocks, each when it is read.
  bool is_sealed() const noexcept { return sealed_ && index_.opening_seal.has_value(); }
  bool is_encrypted() const noexcept { return sealed_ != nullptr; }
  const FileSource& file() const noexcept { return file_; }

  // Reads the content of `targets`, in the order of their entries in the file, each entry once. Of
  // a sealed file, every block is checked that holds some of it or of the record headers; of
  // another encrypted file, every block. With `check_crc` everything is read and summed:
  // Error(kChecksum) when the sum is wrong or the file has none. What was read is not to be used
  // when this throws.
  void read(std::span<const Target> targets, bool check_crc, const LoadRun& run) const;

 private:
  void read_sealed_index(const CancelFlag* cancel);
  void check_run(const Seal& seal) const;
  void check_no_run() const;

  std::shared_ptr<const Cipher> cipher_;
  FileSource file_;
  std::unique_ptr<SealedSource> sealed_;  // nullptr: plain
  Index index_;
};

}  // namespace mindckpt
