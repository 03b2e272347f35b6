#include "support/parameters.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <utility>

#include "checksum/crc32.h"
#include "image/element_type.h"
#include "support/message.h"

namespace mindckpt::test {

Parameter& Parameters::append(std::string name, std::string_view type, std::vector<int64_t> dims) {
  uint64_t nbytes = element_nbytes(tensor_types(), type);
  for (const int64_t dim : dims) nbytes *= static_cast<uint64_t>(dim);
  Parameter& parameter = parameters_.emplace_back();
  parameter.name = std::move(name);
  parameter.type = type;
  parameter.dims = std::move(dims);
  parameter.memory = random_.bytes(nbytes);
  parameter.payload = text_of(parameter.memory);
  parameter.layout.data = parameter.memory.data();
  parameter.layout.element_nbytes = std::max<uint64_t>(element_nbytes(tensor_types(), type), 1);
  parameter.layout.shape = parameter.dims;
  return parameter;
}

Parameters& Parameters::add(std::string name, std::string_view type, std::vector<int64_t> dims) {
  append(std::move(name), type, std::move(dims));
  return *this;
}

Parameters& Parameters::add_reversed(std::string name, std::string_view type,
                                     std::vector<int64_t> dims) {
  Parameter& parameter = append(std::move(name), type, std::move(dims));
  const uint64_t element = parameter.layout.element_nbytes;
  auto stride = -static_cast<int64_t>(element);
  parameter.layout.stride_bytes.resize(parameter.dims.size());
  for (size_t axis = parameter.dims.size(); axis-- > 0;) {
    parameter.layout.stride_bytes[axis] = stride;
    stride *= parameter.dims[axis];
  }
  if (parameter.memory.empty()) return *this;
  parameter.layout.data = parameter.memory.data() + (parameter.memory.size() - element);
  parameter.payload.clear();
  for (uint64_t end = parameter.memory.size(); end > 0; end -= element) {
    parameter.payload += text_of(ByteView(parameter.memory).subspan(end - element, element));
  }
  return *this;
}

Parameters& Parameters::add_text(std::string name, std::u32string_view text) {
  Parameter& parameter = append(std::move(name), kStringType, {0});
  for (const char32_t c : text) {
    for (int shift = 0; shift < 32; shift += 8) {
      parameter.payload.push_back(static_cast<char>(c >> shift));
    }
  }
  parameter.memory = bytes_of(parameter.payload);
  parameter.layout = {parameter.memory.data(), 1, {}, {}, 0};
  return *this;
}

Parameters& Parameters::add_random(size_t count) {
  for (size_t i = 0; i < count; ++i) {
    std::string name(random_.below(random_.one_in(5) ? 300 : 12), 'n');
    name += random_.pick<std::string_view>({".weight", ".bias", "\xC3\xA9", "\xE5\x8F\x82", ""});
    name += std::to_string(parameters_.size());
    std::vector<int64_t> dims(random_.below(5));
    for (int64_t& dim : dims) dim = static_cast<int64_t>(random_.below(random_.one_in(8) ? 2 : 6));
    const auto types = tensor_types();
    const std::string_view type = types[random_.below(types.size())].name;
    switch (random_.below(4)) {
      case 0:
        add_text(name, std::u32string(random_.between(1, 9), U'\u53C2'));
        break;
      case 1:
        add_reversed(name, type, dims);
        break;
      default:
        add(name, type, dims);
    }
  }
  return *this;
}

std::vector<TensorRef> Parameters::refs() const {
  std::vector<TensorRef> refs;
  for (const Parameter& p : parameters_) {
    refs.push_back({p.name, p.type, p.dims, p.layout, p.payload.size()});
  }
  return refs;
}

uint64_t Parameters::payload_nbytes() const {
  uint64_t nbytes = 0;
  for (const Parameter& parameter : parameters_) nbytes += parameter.payload.size();
  return nbytes;
}

std::string Parameters::records() const {
  std::string records;
  for (const Parameter& p : parameters_) {
    records += record(p.name, tensor_message(p.dims, p.type, p.payload));
  }
  return records;
}

std::string Parameters::file(bool crc) const {
  const std::string bytes = records();
  return crc ? bytes + trailer(crc32_update(0, as_bytes(bytes))) : bytes;
}

void add_typical(Parameters& parameters) {
  parameters.add("conv1.weight", "Float32", {2, 1, 3, 3})
      .add("step", "Int64", {})
      .add("empty", "Float16", {0, 4})
      .add_reversed("fc.weight", "BFloat16", {5, 7})
      .add_text("note", U"\u6CE8")
      .add("fc.bias", "Bool", {3});
}

Bytes read_image(const FileImage& image, uint64_t offset, uint64_t nbytes) {
  Bytes bytes;
  for (const FileImage::Piece& piece : image.pieces(offset, nbytes)) {
    const size_t begin = bytes.size();
    bytes.resize(begin + piece.nbytes);
    const ByteSpan place = ByteSpan(bytes).subspan(begin);
    if (piece.payload == nullptr) {
      REQUIRE(piece.literal.size() == piece.nbytes);
      std::ranges::copy(piece.literal, place.begin());
    } else {
      copy_payload(*piece.payload, piece.offset, place);
    }
  }
  return bytes;
}

Bytes read_image(const FileImage& image) { return read_image(image, 0, image.nbytes()); }

std::string content_of(const Entry& entry, std::string_view plain) {
  std::string content;
  for (const Slice& slice : entry.slices) content += plain.substr(slice.begin, slice.nbytes);
  return content;
}

void check_entries(const std::vector<Entry>& entries, const Parameters& parameters,
                   std::string_view plain) {
  REQUIRE(entries.size() == parameters.all().size());
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    const Parameter& parameter = parameters.all()[i];
    CHECK(entry.name == parameter.name);
    CHECK(entry.type == parameter.type);
    CHECK(entry.dims == parameter.dims);
    CHECK(entry.nbytes == parameter.payload.size());
    CHECK(entry.role == EntryRole::kTensor);
    CHECK((content_of(entry, plain) == parameter.payload));
  }
}

}  // namespace mindckpt::test
