#pragma once

#include <doctest/doctest.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/checkpoint_file.h"
#include "engine/save.h"
#include "support/bytes.h"
#include "support/ciphers.h"
#include "support/memory.h"
#include "support/parameters.h"
#include "support/temporary_folder.h"

namespace mindckpt::test {

using SharedCipher = std::shared_ptr<const Cipher>;

struct SaveOptions {
  SharedCipher cipher;  // nullptr: plain
  bool crc = false;
  uint64_t block_bytes = 1000;
  int num_threads = 2;
};

// A save ready to run: image, plan of the blocks' numbers, and what save() reports.
struct Save {
  Save(const Parameters& parameters, const SaveOptions& wanted) : options(wanted) {
    ImageOptions image_options{options.block_bytes, options.crc, std::nullopt};
    if (options.cipher) {
      seal = {options.cipher, options.cipher->random_base()};
      image_options.seal_iv_base = seal.base;
    }
    image = FileImage::plan(parameters.refs(), image_options);
  }
  void run(Sink& sink) {
    const CopyLanes no_devices;
    BlockFeed feed(image, no_devices, nullptr, cancel);
    save(image, seal, feed, sink, {options.num_threads, cancel, written, {}, {}}, stats);
  }
  uint64_t file_nbytes() const { return seal.file_nbytes(image); }

  SaveOptions options;
  SealPlan seal;
  FileImage image;
  CancelFlag cancel{false};
  std::atomic<uint64_t> written{0};
  SaveStats stats;
};

// The file that a save makes, and that every byte of it was written once and then published.
inline Bytes saved(const Parameters& parameters, const SaveOptions& options) {
  Save save(parameters, options);
  MemorySink sink(save.file_nbytes());
  save.run(sink);
  CHECK(sink.written_once());
  CHECK(sink.commits() == 1);
  CHECK(save.written.load() == save.file_nbytes());
  return sink.bytes();
}

// The content of some entries.
inline std::vector<std::string> read_entries(const CheckpointFile& file,
                                             const std::vector<size_t>& wanted,
                                             bool check_crc = false, int num_threads = 2) {
  std::vector<Bytes> contents;
  std::vector<Target> targets;
  for (const size_t entry : wanted) contents.emplace_back(file.entries().at(entry).nbytes);
  for (size_t i = 0; i < wanted.size(); ++i)
    targets.push_back({wanted[i], contents[i].data(), nullptr});
  const CancelFlag never{false};
  file.read(targets, check_crc, {num_threads, never, nullptr, {}});
  std::vector<std::string> texts;
  for (const Bytes& content : contents) texts.push_back(text_of(content));
  return texts;
}

inline std::vector<std::string> read_all(const CheckpointFile& file, bool check_crc = false,
                                         int num_threads = 2) {
  std::vector<size_t> all(file.entries().size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  return read_entries(file, all, check_crc, num_threads);
}

// Checks that the file at `path` holds the parameters and nothing else.
inline void check_loads(const std::string& path, const SharedCipher& cipher,
                        const Parameters& parameters, bool check_crc = false, int num_threads = 2) {
  const CheckpointFile file(path, cipher);
  REQUIRE(file.entries().size() == parameters.all().size());
  const std::vector<std::string> contents = read_all(file, check_crc, num_threads);
  for (size_t i = 0; i < contents.size(); ++i) {
    const Parameter& parameter = parameters.all()[i];
    CHECK(file.entries()[i].name == parameter.name);
    CHECK(file.entries()[i].type == parameter.type);
    CHECK(file.entries()[i].dims == parameter.dims);
    CHECK((contents[i] == parameter.payload));
  }
}

// What most cases need: a folder, a path in it, and parameters that meet every branch of a save.
struct SaveFixture {
  SaveFixture() { add_typical(parameters); }

  TemporaryFolder folder;
  std::string path = folder.path("x.ckpt");
  Parameters parameters;
};

inline SharedCipher cipher_of(const CipherKind& kind, uint64_t seed = 1) {
  Random random(seed);
  return kind.make(random.bytes(kind.key_nbytes));
}

}  // namespace mindckpt::test
