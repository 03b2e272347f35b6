#include "image/index.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "image/element_type.h"
#include "image/record.h"

namespace mindckpt {

namespace {

constexpr int kMaxGroupDepth = 100;  // as protobuf's own parsers
constexpr size_t kMaxTypeBytes = 64;
constexpr size_t kMaxDims = 64;  // NumPy has no more

// An unknown field up to this size is remembered with its neighbours, as one stretch, when it is
// skipped: a file full of small ones must not cost a place in a list for each.
constexpr uint64_t kSmallFieldBytes = 256;

[[noreturn]] void fail(const std::string& what, uint64_t offset) {
  throw Error(ErrorKind::kFormat, what + " at byte " + std::to_string(offset));
}

// Reads a source front to back through a window, and remembers what was taken.
class Cursor {
 public:
  Cursor(const Source& source, Index& index, const CancelFlag* cancel)
      : source_(source),
        index_(index),
        cancel_(cancel),
        window_(std::max(kMostBytes, source.window_nbytes())) {}

  // Between any two fields; a name can be as long as the file, so between two windows too.
  void check_cancelled() const {
    if (cancel_ != nullptr) check_not_cancelled(*cancel_);
  }

  uint64_t position() const noexcept { return position_; }
  void skip_to(uint64_t position) noexcept { position_ = position; }

  // The next `nbytes` bytes, at most the window.
  std::string_view take(uint64_t nbytes, uint64_t end) {
    const std::string_view bytes = look(nbytes, end);
    remember(bytes);
    position_ += bytes.size();
    return bytes;
  }

  // A varint of at most 10 bytes, minimal or not.
  uint64_t take_varint(uint64_t end) {
    const uint64_t begin = position_;
    const std::string_view bytes = look(std::min<uint64_t>(10, end - position_), end);
    uint64_t value = 0;
    for (size_t i = 0; i < bytes.size(); ++i) {
      const auto byte = static_cast<unsigned char>(bytes[i]);
      value |= static_cast<uint64_t>(byte & 0x7F) << (7 * i);
      if (byte < 0x80) {
        take(i + 1, end);
        return value;
      }
    }
    fail("a number is cut off or too long", begin);
  }

  // Strings may be longer than the window.
  std::string take_string(uint64_t nbytes, uint64_t end) {
    std::string text;
    while (text.size() < nbytes) {
      text += take(std::min<uint64_t>(nbytes - text.size(), window_.size()), end);
    }
    return text;
  }

 private:
  std::string_view look(uint64_t nbytes, uint64_t end) {
    if (nbytes > end - position_) fail("a field is cut off", position_);
    MINDCKPT_CHECK(nbytes <= window_.size());
    if (position_ < window_begin_ || position_ + nbytes > window_begin_ + filled_) fill(nbytes);
    return {reinterpret_cast<const char*>(window_.data()) + (position_ - window_begin_), nbytes};
  }

  // Where records are short, reading on is quicker than a call for each.
  void fill(uint64_t nbytes) {
    check_cancelled();
    constexpr uint64_t kGapBytes = 8 << 10;
    const uint64_t end = window_begin_ + filled_;
    const bool goes_on = filled_ > 0 && position_ >= window_begin_ && position_ <= end + kGapBytes;
    const uint64_t wanted = goes_on ? 2 * filled_ : source_.window_nbytes();
    filled_ = std::min(
        {std::max(wanted, nbytes), uint64_t{window_.size()}, source_.nbytes() - position_});
    window_begin_ = position_;
    source_.read_at(position_, ByteSpan(window_).first(filled_));
  }

  void remember(std::string_view bytes) {
    auto& headers = index_.headers;
    if (headers.empty() || headers.back().begin + headers.back().nbytes != position_) {
      headers.push_back({position_, 0, index_.header_bytes.size()});
    }
    headers.back().nbytes += bytes.size();
    index_.header_bytes += bytes;
  }

  static constexpr size_t kMostBytes = 64 << 10;

  const Source& source_;
  Index& index_;
  const CancelFlag* cancel_;
  std::vector<std::byte> window_;
  uint64_t window_begin_ = 0;
  uint64_t filled_ = 0;
  uint64_t position_ = 0;
};

struct FieldTag {
  uint64_t number;
  WireType type;
  uint64_t begin;

  bool is_bytes(uint32_t wanted) const { return number == wanted && type == WireType::kBytes; }
};

// The names of a file, to find one that comes twice. A name is chosen by whoever wrote the file, so
// the work must not depend on what it is: names that a hash takes for one cost a comparison each,
// and sorting has no worse case.
class Names {
 public:
  void add(std::string_view name, size_t entry, uint64_t begin) {
    names_.push_back({std::hash<std::string_view>{}(name), entry, begin});
  }

  // Of the names that were there before, the first in the file; nothing where all differ.
  struct Name {
    uint64_t hash;
    size_t entry;
    uint64_t begin;  // of its record
  };
  std::optional<Name> find_repeated(const std::vector<Entry>& entries, const Cursor& cursor) {
    const auto name_of = [&](const Name& name) -> const std::string& {
      return entries[name.entry].name;
    };
    std::ranges::sort(names_, [&](const Name& a, const Name& b) {
      cursor.check_cancelled();
      if (a.hash != b.hash) return a.hash < b.hash;
      const int order = name_of(a).compare(name_of(b));
      return order != 0 ? order < 0 : a.entry < b.entry;
    });
    std::optional<Name> found;
    for (size_t i = 1; i < names_.size(); ++i) {
      const Name& name = names_[i];
      if (name.hash != names_[i - 1].hash || name_of(name) != name_of(names_[i - 1])) continue;
      if (!found || name.entry < found->entry) found = name;
    }
    return found;
  }

 private:
  std::vector<Name> names_;
};

// What one TensorProto says.
struct Tensor {
  std::vector<int64_t> dims;
  std::optional<std::string> type;
  std::optional<Slice> content;
};

class Parser {
 public:
  Parser(const Source& source, Index& index, const CancelFlag* cancel)
      : source_(source), index_(index), cursor_(source, index, cancel) {}

  void parse_checkpoint() {
    const uint64_t end = source_.nbytes();
    while (cursor_.position() < end) {
      if (index_.closing_seal) check_only_trailer_follows();
      if (is_trailer()) break;
      const FieldTag tag = take_tag(end);
      if (tag.is_bytes(field::kValue)) {
        const uint64_t nbytes = take_length(end);
        parse_value(cursor_.position() + nbytes, tag.begin);
      } else if (tag.is_bytes(field::kSeal)) {
        parse_seal(take_length(end), tag.begin);
      } else {
        skip(tag, end, 0);
      }
    }
    index_.records_nbytes = cursor_.position();
    finish_tensor();
    check_names();
    if (cursor_.position() < end) take_trailer();
  }

 private:
  FieldTag take_tag(uint64_t end) {
    cursor_.check_cancelled();
    const uint64_t begin = cursor_.position();
    const uint64_t tag = cursor_.take_varint(end);
    if (tag >> 3 == 0 || tag >> 32 != 0) fail("not a checkpoint: a bad field number", begin);
    return {tag >> 3, static_cast<WireType>(tag & 7), begin};
  }

  uint64_t take_length(uint64_t end) {
    const uint64_t begin = cursor_.position();
    const uint64_t nbytes = cursor_.take_varint(end);
    if (nbytes > end - cursor_.position()) fail("a length goes past the end", begin);
    return nbytes;
  }

  void skip_bytes(uint64_t nbytes, uint64_t end) {
    if (nbytes > end - cursor_.position()) fail("a field is cut off", cursor_.position());
    if (nbytes <= kSmallFieldBytes) {
      cursor_.take(nbytes, end);
    } else {
      cursor_.skip_to(cursor_.position() + nbytes);
    }
  }

  // Fields that this format does not know are skipped, as protobuf's parsers do.
  void skip(const FieldTag& tag, uint64_t end, int depth) {
    switch (tag.type) {
      case WireType::kVarint:
        cursor_.take_varint(end);
        return;
      case WireType::kFixed64:
        skip_bytes(8, end);
        return;
      case WireType::kFixed32:
        skip_bytes(4, end);
        return;
      case WireType::kBytes:
        skip_bytes(take_length(end), end);
        return;
      case WireType::kStartGroup:
        if (depth >= kMaxGroupDepth) fail("groups are nested too deep", tag.begin);
        while (true) {
          const FieldTag inner = take_tag(end);
          if (inner.type == WireType::kEndGroup) {
            if (inner.number != tag.number) fail("a group ends wrongly", inner.begin);
            return;
          }
          skip(inner, end, depth + 1);
        }
      default:
        fail("not a checkpoint: a bad wire type", tag.begin);
    }
  }

  void parse_value(uint64_t end, uint64_t begin) {
    std::optional<std::string> name;
    std::optional<Tensor> tensor;
    std::vector<Tensor> map;
    bool is_map = false;
    while (cursor_.position() < end) {
      const FieldTag tag = take_tag(end);
      if (tag.is_bytes(field::kTag)) {
        if (name) fail("a record has two names", tag.begin);
        name = cursor_.take_string(take_length(end), end);
        if (!is_utf8(*name)) fail("a record's name is not UTF-8", tag.begin);
      } else if (tag.is_bytes(field::kTensor) || tag.is_bytes(field::kMapTensor)) {
        if (tensor || is_map) fail("a record has two tensors", tag.begin);
        const uint64_t nbytes = take_length(end);
        const uint64_t inner_end = cursor_.position() + nbytes;
        if (tag.number == field::kTensor) {
          tensor = parse_tensor(inner_end);
        } else {
          is_map = true;
          map = parse_map(inner_end);
        }
      } else {
        skip(tag, end, 0);
      }
    }
    if (!name) fail("a record has no name", begin);
    if (is_map) {
      add_map(std::move(*name), std::move(map), begin);
    } else if (tensor) {
      add_tensor(std::move(*name), std::move(*tensor), EntryRole::kTensor, begin);
    } else {
      fail("record " + quoted(*name) + " has no tensor", begin);
    }
  }

  Tensor parse_tensor(uint64_t end) {
    Tensor tensor;
    while (cursor_.position() < end) {
      const FieldTag tag = take_tag(end);
      if (tag.number == field::kDims && tag.type == WireType::kVarint) {
        take_dim(tensor, end);
      } else if (tag.is_bytes(field::kDims)) {  // packed
        const uint64_t nbytes = take_length(end);
        const uint64_t dims_end = cursor_.position() + nbytes;
        while (cursor_.position() < dims_end) {
          take_dim(tensor, dims_end);
        }
      } else if (tag.is_bytes(field::kTensorType)) {
        const uint64_t nbytes = take_length(end);
        if (tensor.type) fail("a tensor has two types", tag.begin);
        if (nbytes > kMaxTypeBytes) fail("a tensor's type is not known", tag.begin);
        tensor.type = cursor_.take_string(nbytes, end);
      } else if (tag.is_bytes(field::kContent)) {
        if (tensor.content) fail("a tensor has two contents", tag.begin);
        const uint64_t nbytes = take_length(end);
        tensor.content = Slice{cursor_.position(), nbytes};
        cursor_.skip_to(cursor_.position() + nbytes);
      } else {
        skip(tag, end, 0);
      }
    }
    return tensor;
  }

  void take_dim(Tensor& tensor, uint64_t end) {
    if (tensor.dims.size() == kMaxDims) fail("a tensor has too many dims", cursor_.position());
    tensor.dims.push_back(static_cast<int64_t>(cursor_.take_varint(end)));
  }

  std::vector<Tensor> parse_map(uint64_t end) {
    std::vector<Tensor> map;
    while (cursor_.position() < end) {
      const FieldTag tag = take_tag(end);
      if (tag.is_bytes(field::kMapEntry)) {
        if (map.size() == kMapRoles.size())
          fail("a map tensor has more than three parts", tag.begin);
        const uint64_t nbytes = take_length(end);
        map.push_back(parse_tensor(cursor_.position() + nbytes));
      } else {
        skip(tag, end, 0);
      }
    }
    return map;
  }

  void add_map(std::string name, std::vector<Tensor> map, uint64_t begin) {
    if (map.size() != kMapRoles.size()) {
      fail("map tensor " + quoted(name) + " has not three parts", begin);
    }
    for (size_t i = 0; i < map.size(); ++i)
      add_tensor(name, std::move(map[i]), kMapRoles[i], begin);
  }

  // A new entry, or one more slice of the tensor before.
  void add_tensor(std::string name, Tensor tensor, EntryRole role, uint64_t begin) {
    if (!tensor.type) fail("record " + quoted(name) + " has no type", begin);
    if (!tensor.content) fail("record " + quoted(name) + " has no content", begin);
    if (role == EntryRole::kTensor && !index_.entries.empty()) {
      Entry& last = index_.entries.back();
      if (last.name == name && last.role == EntryRole::kTensor) {
        if (last.type != *tensor.type || last.dims != tensor.dims) {
          fail("two slices of " + quoted(name) + " differ in type or dims", begin);
        }
        last.slices.push_back(*tensor.content);
        last.nbytes += tensor.content->nbytes;
        return;
      }
    }
    finish_tensor();
    const bool first_of_name = role == EntryRole::kTensor || role == EntryRole::kMapKey;
    if (first_of_name) names_.add(name, index_.entries.size(), begin);
    entry_begin_ = begin;
    index_.entries.push_back({std::move(name),
                              std::move(*tensor.type),
                              std::move(tensor.dims),
                              tensor.content->nbytes,
                              {*tensor.content},
                              role});
  }

  void check_names() {
    if (const auto repeated = names_.find_repeated(index_.entries, cursor_)) {
      fail("parameter " + quoted(index_.entries[repeated->entry].name) +
               " comes twice, or its slices are not adjacent",
           repeated->begin);
    }
  }

  // The last entry has all its slices: do they hold what its type and dims say?
  void finish_tensor() {
    if (index_.entries.empty()) return;
    Entry& entry = index_.entries.back();
    if (entry.role == EntryRole::kTensor && entry.type == kStringType) {
      if (entry.nbytes % 4 != 0 || entry.nbytes == 0) {
        fail("string " + quoted(entry.name) + " is not UTF-32", entry_begin_);
      }
      return;
    }
    const auto types = entry.role == EntryRole::kTensor ? tensor_types() : map_part_types();
    const uint64_t element = element_nbytes(types, entry.type);
    if (element == 0) {
      fail("parameter " + quoted(entry.name) + " has the unknown type " + quoted(entry.type),
           entry_begin_);
    }
    // Old MindSpore releases wrote a single number with dims [0].
    if (entry.dims == std::vector<int64_t>{0} && entry.nbytes == element) entry.dims.clear();
    // The product is taken over all dims but zeros, so that an empty tensor's others are bounded
    // too.
    uint64_t wanted = element;
    bool empty = false;
    for (const int64_t dim : entry.dims) {
      if (dim < 0) fail("parameter " + quoted(entry.name) + " has a negative dim", entry_begin_);
      if (dim == 0) {
        empty = true;
      } else if (__builtin_mul_overflow(wanted, static_cast<uint64_t>(dim), &wanted) ||
                 wanted > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        fail("the dims of parameter " + quoted(entry.name) + " are too large", entry_begin_);
      }
    }
    if (empty) wanted = 0;
    if (wanted != entry.nbytes) {
      check_names();  // where slices are not adjacent, each has too little
      fail("parameter " + quoted(entry.name) + ": " + std::to_string(entry.nbytes) +
               " bytes of content, its type and dims need " + std::to_string(wanted),
           entry_begin_);
    }
  }

  void parse_seal(uint64_t nbytes, uint64_t begin) {
    if (nbytes != kSealPayloadBytes) return skip_bytes(nbytes, source_.nbytes());
    const std::string_view payload = cursor_.take(nbytes, source_.nbytes());
    const auto placed = decode_seal(as_bytes(payload));
    if (!placed) return;
    if (placed->position == Seal::Position::kOpening) {
      if (begin != 0) fail("an opening seal record stands inside the file", begin);
      index_.opening_seal = placed;
    } else {
      index_.closing_seal = placed;
    }
  }

  void check_only_trailer_follows() {
    if (!is_trailer()) fail("records follow the closing seal record", cursor_.position());
  }

  // MindSpore takes any file that ends in such bytes for one with a trailer. Here it must follow
  // the last record: the mark's first byte cannot begin a field that fits in 17 bytes.
  bool is_trailer() {
    if (source_.nbytes() - cursor_.position() != kCrcTrailerBytes) return false;
    std::array<std::byte, kCrcMark.size()> mark;
    source_.read_at(cursor_.position(), mark);
    return std::memcmp(mark.data(), kCrcMark.data(), mark.size()) == 0;
  }

  void take_trailer() {
    const std::string_view bytes =
        cursor_.take(kCrcTrailerBytes, source_.nbytes()).substr(kCrcMark.size());
    uint64_t number = 0;
    for (const char c : bytes) {
      // A number over 64 bits is as wrong as any over 32.
      number = number >> 56 != 0 ? ~uint64_t{0} : number << 8 | static_cast<unsigned char>(c);
    }
    index_.crc = number;
  }

  static constexpr std::array kMapRoles = {EntryRole::kMapKey, EntryRole::kMapValue,
                                           EntryRole::kMapStatus};

  const Source& source_;
  Index& index_;
  Cursor cursor_;
  Names names_;
  uint64_t entry_begin_ = 0;
};

}  // namespace

Index Index::read(const Source& plain, const CancelFlag* cancel) {
  Index index;
  Parser(plain, index, cancel).parse_checkpoint();
  return index;
}

}  // namespace mindckpt
