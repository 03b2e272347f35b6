#include "engine/save.h"

#include <doctest/doctest.h>

#include <bit>

#include "engine/saving.h"
#include "engine/snapshot.h"
#include "support/errors.h"

namespace mindckpt {
namespace {

using test::cipher_of;
using test::error_of;
using test::MemorySink;
using test::Save;
using test::SaveFixture;
using test::SharedCipher;

TEST_CASE_FIXTURE(SaveFixture, "a save's stats count what was written") {
  for (const SharedCipher& cipher : {SharedCipher(), cipher_of({CipherMode::kAesCbc, 32})}) {
    Save save(parameters, {cipher, true, 100, 3});
    MemorySink sink(save.file_nbytes());
    save.run(sink);
    CHECK(save.stats.nbytes == sink.bytes().size());
    CHECK(save.stats.payload_nbytes == parameters.payload_nbytes());
    CHECK(save.stats.records == parameters.all().size());
    CHECK(save.stats.blocks == save.image.num_blocks());
    CHECK(save.stats.num_threads == 3);
  }
}

TEST_CASE_FIXTURE(SaveFixture, "a small checkpoint is one write whatever it is made of") {
  parameters.add_random(1000);
  for (const SharedCipher& cipher : {SharedCipher(), cipher_of({CipherMode::kAesGcm, 32})}) {
    Save save(parameters, {cipher, true, default_block_bytes(cipher.get(), 2), 2});
    MemorySink sink(save.file_nbytes());
    save.run(sink);
    CHECK(sink.writes() == 1);
    CHECK(sink.written_once());
  }
}

TEST_CASE_FIXTURE(SaveFixture, "every block but the last has the same place in the file") {
  for (const test::CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    const SharedCipher cipher = cipher_of(kind);
    for (const uint64_t block_bytes : {1u, 16u, 100u}) {
      const Save save(parameters, {cipher, false, block_bytes});
      uint64_t end = 0;
      for (uint64_t block = 0; block < save.image.num_blocks(); ++block) {
        CHECK(save.seal.block_begin(save.image, block) == end);
        end += cipher->frame_nbytes(save.image.block_nbytes(block));
      }
      CHECK(save.file_nbytes() == end);
    }
  }
}

TEST_CASE_FIXTURE(SaveFixture, "blocks carry numbers in a run from the base") {
  for (const test::CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    const SharedCipher cipher = cipher_of(kind);
    Save save(parameters, {cipher, false, 50, 3});
    MemorySink sink(save.file_nbytes());
    save.run(sink);
    uint64_t block = 0;
    for (const test::Bytes& frame : test::split_frames(kind.mode, sink.bytes())) {
      const Iv iv = decode_frame_header(frame, kind.mode).iv;
      CHECK((cipher->number_of(iv) == cipher->block_number(save.seal.base, block++)));
    }
    CHECK(block == save.image.num_blocks());
  }
}

TEST_CASE_FIXTURE(SaveFixture, "a save that was cancelled before publishes nothing") {
  for (const SharedCipher& cipher : {SharedCipher(), cipher_of({CipherMode::kAesGcm, 16})}) {
    Save save(parameters, {cipher, true});
    save.cancel = true;
    MemorySink sink(save.file_nbytes());
    CHECK(error_of([&] { save.run(sink); }).kind() == ErrorKind::kCancelled);
    CHECK(sink.commits() == 0);
  }
}

// Cancels during the call that it is told to: a write, or the sync after them.
class CancellingSink final : public Sink {
 public:
  CancellingSink(MemorySink& sink, CancelFlag& cancel, int at_call)
      : sink_(sink), cancel_(cancel), calls_left_(at_call) {}
  void write_at(uint64_t offset, std::span<const ByteView> pieces) override {
    count_call();
    sink_.write_at(offset, pieces);
  }
  void sync() override {
    count_call();
    sink_.sync();
  }
  void commit() override { sink_.commit(); }

 private:
  void count_call() {
    if (calls_left_-- == 0) cancel_ = true;
  }

  MemorySink& sink_;
  CancelFlag& cancel_;
  std::atomic<int> calls_left_;
};

TEST_CASE_FIXTURE(SaveFixture,
                  "a save that is cancelled at any write or its sync publishes nothing") {
  for (const bool crc : {false, true}) {
    const auto writes = static_cast<int>(Save(parameters, {nullptr, crc, 50}).image.num_blocks());
    for (int at_call = 0; at_call <= writes; ++at_call) {
      CAPTURE(at_call);
      Save save(parameters, {nullptr, crc, 50, 2});
      MemorySink memory(save.file_nbytes());
      CancellingSink sink(memory, save.cancel, at_call);
      CHECK(error_of([&] { save.run(sink); }).kind() == ErrorKind::kCancelled);
      CHECK(memory.commits() == 0);
    }
  }
}

TEST_CASE_FIXTURE(SaveFixture, "a file counts as written when all its bytes are with the sink") {
  for (const bool crc : {false, true}) {
    for (const int threads : {1, 3}) {
      Save save(parameters, {nullptr, crc, 50, threads});
      MemorySink sink(save.file_nbytes());
      const CopyLanes no_devices;
      BlockFeed feed(save.image, no_devices, nullptr, save.cancel);
      int told = 0;
      const auto on_written = [&] {
        ++told;
        CHECK(save.written.load() == save.file_nbytes());
        CHECK(sink.commits() == 0);
      };
      mindckpt::save(save.image, save.seal, feed, sink,
                     {threads, save.cancel, save.written, {}, on_written}, save.stats);
      CHECK(told == 1);
    }
  }
}

TEST_CASE("blocks that are picked keep the memory of all threads in bounds") {
  constexpr uint64_t kMiB = uint64_t{1} << 20;
  CHECK(default_block_bytes(nullptr, 1) == 4 * kMiB);
  std::vector<SharedCipher> ciphers{nullptr};
  for (const test::CipherKind& kind : test::every_kind()) {
    ciphers.push_back(cipher_of(kind));
    const uint64_t block_bytes = default_block_bytes(ciphers.back().get(), 1);
    const uint64_t frame_bytes = pick_frames(*ciphers.back(), block_bytes).frame_bytes;
    CHECK(ciphers.back()->frames_nbytes(block_bytes, frame_bytes) == 2 * kMiB);
  }
  for (const SharedCipher& cipher : ciphers) {
    for (int threads = 1; threads <= 300; ++threads) {
      const uint64_t block_bytes = default_block_bytes(cipher.get(), threads);
      const FrameSizes sizes =
          cipher ? pick_frames(*cipher, block_bytes) : FrameSizes{block_bytes, block_bytes};
      CHECK(sizes.block_bytes == block_bytes);
      const uint64_t in_file =
          cipher ? cipher->frames_nbytes(block_bytes, sizes.frame_bytes) : block_bytes;
      CHECK(in_file % kPageBytes == 0);
      CHECK(in_file >= kPageBytes);
      CHECK(2 * block_bytes * static_cast<uint64_t>(threads) <= 33 * kMiB);
      CHECK(block_bytes <= default_block_bytes(cipher.get(), 1));
    }
  }
}

TEST_CASE("blocks of CBC are cut into frames that fill the lanes unless they are tiny") {
  for (const test::CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    const SharedCipher cipher = cipher_of(kind);
    for (uint64_t most = 1; most < (uint64_t{64} << 20); most += most / 7 + 1) {
      CAPTURE(most);
      const auto [block_bytes, frame_bytes] = pick_frames(*cipher, most);
      CHECK(block_bytes <= most);
      CHECK(block_bytes % frame_bytes == 0);
      const uint64_t frames = block_bytes / frame_bytes;
      CHECK(std::has_single_bit(frames));
      CHECK(frames <= cipher->frames_at_once());
      if (frames > 1) {
        CHECK(block_bytes > most / 2);
        CHECK(cipher->frames_nbytes(block_bytes, frame_bytes) % kPageBytes == 0);
        CHECK(frame_bytes % kCipherBlockBytes == 0);
      }
      if (frames == 1) CHECK(block_bytes == most);
      if (most >= (uint64_t{8} << 10) && kind.mode != CipherMode::kAesGcm) CHECK(frames > 4);
      if (most >= (uint64_t{64} << 10)) CHECK(frames == cipher->frames_at_once());
    }
  }
}

TEST_CASE_FIXTURE(SaveFixture, "a snapshot holds the payloads as they were") {
  for (int threads = 1; threads <= 4; ++threads) {
    CAPTURE(threads);
    test::Parameters changing(131);
    changing.add_random(20).add("large", "Int8", {(5 << 20) + 1});
    const std::string before = changing.records();
    FileImage image = FileImage::plan(changing.refs(), {1000, false, std::nullopt});
    Snapshot snapshot;
    snapshot.copy_host_payloads(image, threads);
    for (test::Parameter& parameter : changing.all()) {
      std::ranges::fill(parameter.memory, std::byte{0xEE});
    }
    CHECK((test::text_of(test::read_image(image)) == before));
  }
}

TEST_CASE("a snapshot of nothing is nothing") {
  FileImage image = FileImage::plan({}, {1000, false, std::nullopt});
  Snapshot snapshot;
  snapshot.copy_host_payloads(image, 2);
  CHECK_FALSE(snapshot.copies_devices());
  CHECK(image.nbytes() == 0);
}

}  // namespace
}  // namespace mindckpt
