#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <ostream>
#include <set>
#include <string>
#include <utility>

#include "base/error.h"
#include "image/element_type.h"
#include "image/index.h"
#include "image/record.h"
#include "support/bytes.h"
#include "support/memory.h"

namespace mindckpt::test {

inline Index read_index(std::string_view file) { return Index::read(MemorySource(file)); }

// The first thing that is wrong with an index of `file`, "" when a load can rely on it.
inline std::string unsoundness(const Index& index, std::string_view file) {
  using Span = std::pair<uint64_t, uint64_t>;  // begin, end
  std::vector<Span> spans;
  const auto inside = [&](uint64_t begin, uint64_t nbytes) {
    if (nbytes > 0) spans.emplace_back(begin, begin + nbytes);
    return begin <= file.size() && nbytes <= file.size() - begin;
  };
  std::set<std::string> names;
  EntryRole before = EntryRole::kMapStatus;
  for (const Entry& entry : index.entries) {
    uint64_t nbytes = 0;
    for (const Slice& slice : entry.slices) {
      if (!inside(slice.begin, slice.nbytes)) return "a slice outside the file";
      nbytes += slice.nbytes;
    }
    if (nbytes != entry.nbytes) return "slices that do not add up";
    if (entry.type != kStringType) {
      const bool is_tensor = entry.role == EntryRole::kTensor;
      uint64_t wanted = element_nbytes(is_tensor ? tensor_types() : map_part_types(), entry.type);
      if (wanted == 0) return "an unknown type";
      for (const int64_t dim : entry.dims) {
        if (dim < 0) return "a negative dim";
        wanted *= static_cast<uint64_t>(dim);
      }
      if (wanted != entry.nbytes) return "content that does not fit";
    }
    const bool follows = (entry.role == EntryRole::kMapValue && before == EntryRole::kMapKey) ||
                         (entry.role == EntryRole::kMapStatus && before == EntryRole::kMapValue);
    const bool begins = entry.role == EntryRole::kTensor || entry.role == EntryRole::kMapKey;
    const bool may_begin = before == EntryRole::kTensor || before == EntryRole::kMapStatus;
    if (follows == begins || (begins && !may_begin)) return "a map tensor out of order";
    if (begins && !names.insert(entry.name).second) return "a name that comes twice";
    before = entry.role;
  }
  for (const Index::Header& header : index.headers) {
    if (!inside(header.begin, header.nbytes)) return "a header outside the file";
    if (index.header_bytes.compare(header.literal, header.nbytes,
                                   file.substr(header.begin, header.nbytes)) != 0) {
      return "header bytes that are not the file's";
    }
  }
  std::ranges::sort(spans);
  for (size_t i = 1; i < spans.size(); ++i) {
    if (spans[i].first < spans[i - 1].second) return "headers and content that overlap";
  }
  if (index.records_nbytes + (index.crc ? kCrcTrailerBytes : 0) != file.size()) {
    return "records that do not end at the trailer";
  }
  return "";
}

// Reads a file that may be anything: either the index is sound, or the error is of the right kind
// and its message is text. Returns whether there was an index.
inline bool reads_or_refuses(std::string_view file) {
  try {
    const std::string wrong = unsoundness(read_index(file), file);
    if (!wrong.empty()) {
      FAIL_CHECK(wrong << ": " << hex(file));
    }
    return true;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kFormat) {
      FAIL_CHECK("not a format error but '" << error.what() << "': " << hex(file));
    }
    const std::string_view text = error.what();
    // Bytes that no UTF-8 text has: Python could not show the message.
    if (text.find_first_of("\xC0\xC1\xF5\xFE\xFF") != text.npos) {
      FAIL_CHECK("a message that is no text: " << hex(file));
    }
    return false;
  }
}

}  // namespace mindckpt::test
