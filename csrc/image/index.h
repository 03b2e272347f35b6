#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/workers.h"
#include "image/seal.h"
#include "storage/source.h"

namespace mindckpt {

// Bytes of a tensor's content that lie together in the file's plaintext.
struct Slice {
  uint64_t begin;
  uint64_t nbytes;
};

enum class EntryRole { kTensor, kMapKey, kMapValue, kMapStatus };

// One tensor or string of a file. A map tensor is three entries of one name that follow each other.
struct Entry {
  std::string name;
  std::string type;
  std::vector<int64_t> dims;
  uint64_t nbytes = 0;        // of the content, which fits type and dims
  std::vector<Slice> slices;  // in order, together `nbytes`
  EntryRole role = EntryRole::kTensor;
};

// A checkpoint's plaintext read back into records, payloads not touched.
class Index {
 public:
  // Throws Error(kFormat) that says what is wrong and where, for anything that is not a sound
  // checkpoint; Error(kIo); Error(kCancelled) once `cancel`, which is borrowed, is set. Takes
  // memory in proportion to the bytes that are there, whatever lengths and dims they claim, and no
  // more time for names that somebody chose than for others.
  static Index read(const Source& plain, const CancelFlag* cancel = nullptr);

  std::vector<Entry> entries;

  // The CRC trailer's number, when there is one: 80 bits, of which only 32 can be right.
  std::optional<uint64_t> crc;
  uint64_t records_nbytes = 0;  // what the CRC covers

  std::optional<PlacedSeal> opening_seal;  // the one at the very start
  std::optional<PlacedSeal> closing_seal;  // the one at the end, before a trailer

  // The bytes that were read and believed, payloads apart, so that a load can compare them with
  // what its checks vouch for.
  struct Header {
    uint64_t begin;  // in the plaintext
    uint64_t nbytes;
    uint64_t literal;  // where in header_bytes
  };
  std::vector<Header> headers;
  std::string header_bytes;
};

}  // namespace mindckpt
