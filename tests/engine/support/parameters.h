#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "image/file_image.h"
#include "image/index.h"
#include "support/bytes.h"
#include "support/random.h"

namespace mindckpt::test {

// A parameter that owns its memory.
struct Parameter {
  std::string name;
  std::string type;
  std::vector<int64_t> dims;
  std::string payload;  // what a file shall hold of it
  Bytes memory;         // where `layout` points to
  HostLayout layout;
};

// What a test saves. It has to outlive the images planned from it.
class Parameters {
 public:
  explicit Parameters(uint64_t seed = 0) : random_(seed) {}
  Parameters(const Parameters&) = delete;
  Parameters& operator=(const Parameters&) = delete;

  // A tensor of random bytes.
  Parameters& add(std::string name, std::string_view type, std::vector<int64_t> dims);
  // The same, held in memory in reverse order: a view with negative strides.
  Parameters& add_reversed(std::string name, std::string_view type, std::vector<int64_t> dims);
  Parameters& add_text(std::string name, std::u32string_view text);
  // `count` of all sorts: types, ranks, empty ones, strings, reversed ones, and names in UTF-8.
  Parameters& add_random(size_t count);

  const std::deque<Parameter>& all() const { return parameters_; }
  std::deque<Parameter>& all() { return parameters_; }
  std::vector<TensorRef> refs() const;
  uint64_t payload_nbytes() const;

  // The records as MindSpore would write them, by Message.
  std::string records() const;
  // A whole plain file.
  std::string file(bool crc) const;

 private:
  Parameter& append(std::string name, std::string_view type, std::vector<int64_t> dims);

  Random random_;
  std::deque<Parameter> parameters_;
};

// A few parameters that together meet every branch of a save: 0-d, empty, strided, text.
void add_typical(Parameters& parameters);

// Reads a piece or a whole image: literals as they are, payloads through copy_payload.
Bytes read_image(const FileImage& image, uint64_t offset, uint64_t nbytes);
Bytes read_image(const FileImage& image);

// The bytes of an entry's slices in the plaintext.
std::string content_of(const Entry& entry, std::string_view plain);

// Checks that the entries are those parameters and that the slices hold their payloads.
void check_entries(const std::vector<Entry>& entries, const Parameters& parameters,
                   std::string_view plain);

}  // namespace mindckpt::test
