#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mindckpt::test {

// Writes protobuf messages field by field: the tests' own idea of the wire format, apart from the
// engine's, which knows no messages.
class Message {
 public:
  Message& varint(uint32_t field, uint64_t value) { return tag(field, 0).number(value); }
  Message& fixed64(uint32_t field, uint64_t value) { return tag(field, 1).fixed(value, 8); }
  Message& bytes(uint32_t field, std::string_view value) {
    return tag(field, 2).number(value.size()).raw(value);
  }
  Message& group(uint32_t field, const Message& inside) {
    return tag(field, 3).raw(inside.text()).tag(field, 4);
  }
  Message& fixed32(uint32_t field, uint32_t value) { return tag(field, 5).fixed(value, 4); }

  Message& tag(uint32_t field, uint32_t wire_type) { return number(field * 8 + wire_type); }
  Message& raw(std::string_view bytes) {
    text_.append(bytes);
    return *this;
  }
  // A varint of `nbytes` bytes, padded with continuation bytes when it could be shorter.
  Message& number(uint64_t value, int nbytes = 1) {
    for (; value > 127 || nbytes > 1; value /= 128, --nbytes) {
      text_.push_back(static_cast<char>(128 + value % 128));
    }
    text_.push_back(static_cast<char>(value));
    return *this;
  }

  const std::string& text() const { return text_; }

 private:
  Message& fixed(uint64_t value, int nbytes) {
    for (; nbytes > 0; --nbytes, value /= 256) text_.push_back(static_cast<char>(value % 256));
    return *this;
  }

  std::string text_;
};

// TensorProto, as MindSpore writes it.
inline std::string tensor_message(const std::vector<int64_t>& dims, std::string_view type,
                                  std::string_view content) {
  Message message;
  for (const int64_t dim : dims) message.varint(1, static_cast<uint64_t>(dim));
  return message.bytes(2, type).bytes(3, content).text();
}

// Checkpoint with one Value whose body is `value`.
inline std::string checkpoint(const Message& value) {
  return Message().bytes(1, value.text()).text();
}

// The record of one tensor.
inline std::string record(std::string_view name, std::string_view tensor) {
  return checkpoint(Message().bytes(1, name).bytes(2, tensor));
}

// The record of one map tensor of these parts.
inline std::string map_record(std::string_view name, const std::vector<std::string>& parts) {
  Message map;
  for (const std::string& part : parts) map.bytes(1, part);
  return checkpoint(Message().bytes(1, name).bytes(3, map.text()));
}

// MindSpore's trailer.
inline std::string trailer(uint64_t crc) {
  std::string text = "crc_num";
  text.append(2, '\0');
  for (int shift = 56; shift >= 0; shift -= 8) text.push_back(static_cast<char>(crc >> shift));
  return text;
}

}  // namespace mindckpt::test
