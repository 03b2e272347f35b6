#include "engine/job.h"

#include <doctest/doctest.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "engine/saving.h"
#include "support/child.h"
#include "support/errors.h"
#include "support/no_threads.h"

namespace mindckpt {
namespace {

using namespace std::chrono_literals;
using test::cipher_of;
using test::error_of;
using test::SaveFixture;
using test::succeeds_in_child;
using Names = std::vector<std::string>;

// Holds a save up: it seals nothing until it is let go.
class GatedCipher final : public Cipher {
 public:
  GatedCipher() : Cipher(CipherMode::kAesGcm), cipher_(cipher_of({CipherMode::kAesGcm, 16})) {}

  void let_go() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void wait_until_held_up() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return reached_; });
  }

  uint64_t ciphertext_nbytes(uint64_t n) const override { return cipher_->ciphertext_nbytes(n); }
  Iv random_base() const override { return cipher_->random_base(); }
  Iv block_number(const Iv& base, uint64_t block) const override {
    return cipher_->block_number(base, block);
  }
  Iv iv_of(const Iv& number) const override { return cipher_->iv_of(number); }
  Iv number_of(const Iv& iv) const override { return cipher_->number_of(iv); }
  void seal(ByteView plain, const Iv& iv, ByteSpan frame) const override {
    {
      std::unique_lock lock(mutex_);
      reached_ = true;
      changed_.notify_all();
      changed_.wait(lock, [this] { return open_; });
    }
    cipher_->seal(plain, iv, frame);
  }
  uint64_t open(const FrameHeader& header, ByteView body, ByteView end,
                ByteSpan plain) const override {
    return cipher_->open(header, body, end, plain);
  }
  void peek(const FrameHeader& header, uint64_t offset, ByteView ciphertext,
            ByteSpan plain) const override {
    cipher_->peek(header, offset, ciphertext, plain);
  }
  uint64_t tail_nbytes(const FrameHeader& header) const override {
    return cipher_->tail_nbytes(header);
  }
  uint64_t plain_nbytes(const FrameHeader& header, ByteView tail) const override {
    return cipher_->plain_nbytes(header, tail);
  }

 private:
  test::SharedCipher cipher_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  mutable bool reached_ = false;
  bool open_ = false;
};

struct Fixture : SaveFixture {
  SaveRequest request(std::shared_ptr<const Cipher> cipher = nullptr) const {
    SaveRequest request;
    request.tensors = parameters.refs();
    request.path = path;
    request.durable = false;
    request.cipher = std::move(cipher);
    request.num_threads = 2;
    return request;
  }
  std::shared_ptr<SaveJob> start(SaveRequest request, std::shared_ptr<SaveJob> after = nullptr) {
    auto job = std::make_shared<SaveJob>(std::move(request));
    job->start(std::move(after));
    return job;
  }
  void fill_parameters(std::byte value) {
    for (test::Parameter& parameter : parameters.all()) {
      std::ranges::fill(parameter.memory, value);
    }
  }

  std::shared_ptr<GatedCipher> gate = std::make_shared<GatedCipher>();
};

TEST_CASE_FIXTURE(Fixture, "a job saves what the tests' own encoder writes") {
  const auto job = start(request());
  CHECK(job->wait(std::nullopt));
  job->result();
  CHECK(test::read_file(path) == parameters.file(false));
  CHECK(folder.names() == Names{"x.ckpt"});
}

TEST_CASE_FIXTURE(Fixture, "a job's stats and counters say what was saved") {
  for (const bool durable : {false, true}) {
    SaveRequest wanted = request();
    wanted.durable = durable;
    wanted.crc = true;
    const auto job = start(std::move(wanted));
    job->wait(std::nullopt);
    const SaveStats& stats = job->result();
    CHECK(stats.nbytes == parameters.file(true).size());
    CHECK(stats.records == parameters.all().size());
    CHECK(stats.num_threads == 2);
    CHECK(stats.durable == durable);
    CHECK(stats.seconds > 0);
    CHECK(job->written_nbytes() == stats.nbytes);
    CHECK(job->file_nbytes() == stats.nbytes);
  }
}

TEST_CASE_FIXTURE(Fixture, "threads and block size are picked when they are not given") {
  SaveRequest wanted = request();
  wanted.num_threads = 0;
  const auto plain = start(std::move(wanted));
  plain->wait(std::nullopt);
  CHECK(plain->result().num_threads == default_num_threads());
  CHECK(plain->result().blocks == 1);
  const auto sealed = start(request(cipher_of({CipherMode::kAesCbc, 16})));
  sealed->wait(std::nullopt);
  CHECK(sealed->result().blocks == 1);
}

TEST_CASE_FIXTURE(Fixture, "what changes after a snapshot is not in the file") {
  SaveRequest wanted = request(gate);
  wanted.snapshot = SnapshotPolicy::kHost;
  const auto job = start(std::move(wanted));
  gate->wait_until_held_up();
  fill_parameters(std::byte{0xEE});
  gate->let_go();
  job->wait(std::nullopt);
  job->result();
  test::check_loads(path, gate, parameters);  // whose payloads are those of before
}

TEST_CASE_FIXTURE(Fixture, "a job that is not done has no result and waits until its deadline") {
  const auto job = start(request(gate));
  gate->wait_until_held_up();
  CHECK_FALSE(job->done());
  CHECK_FALSE(job->wait(Clock::now()));
  CHECK_FALSE(job->wait(Clock::now() + 5ms));
  CHECK(error_of([&] { job->result(); }).kind() == ErrorKind::kInternal);
  CHECK(job->written_nbytes() == 0);
  CHECK(job->file_nbytes() > 0);
  gate->let_go();
  CHECK(job->wait(Clock::now() + 1h));
  CHECK(job->done());
  CHECK(job->wait(Clock::now() - 1h));
}

TEST_CASE_FIXTURE(Fixture, "several threads may wait for one job") {
  const auto job = start(request(gate));
  std::atomic<int> done{0};
  std::vector<std::jthread> waiting;
  for (int i = 0; i < 3; ++i) {
    waiting.emplace_back([&] { done += job->wait(std::nullopt) && job->done() ? 1 : 0; });
  }
  gate->wait_until_held_up();
  gate->let_go();
  waiting.clear();
  CHECK(done.load() == 3);
}

TEST_CASE_FIXTURE(Fixture, "a job begins when the one before it is done") {
  const auto first = start(request(gate));
  gate->wait_until_held_up();
  SaveRequest wanted = request();
  wanted.snapshot = SnapshotPolicy::kHost;
  const auto second = start(std::move(wanted), first);
  CHECK_FALSE(second->wait(Clock::now() + 20ms));
  CHECK(second->written_nbytes() == 0);
  CHECK(folder.names().size() == 1);  // the first one's temporary file
  gate->let_go();
  second->wait(std::nullopt);
  CHECK(first->done());
  first->result();
  second->result();
  CHECK(test::read_file(path) == parameters.file(false));
}

TEST_CASE_FIXTURE(Fixture, "jobs in a row are done in their order") {
  std::vector<std::shared_ptr<SaveJob>> jobs{start(request(gate))};
  for (int i = 0; i < 5; ++i) {
    SaveRequest wanted = request();
    wanted.crc = i == 4;
    jobs.push_back(start(std::move(wanted), jobs.back()));
  }
  gate->let_go();
  jobs.back()->wait(std::nullopt);
  for (const auto& job : jobs) {
    CHECK(job->done());
    job->result();
  }
  CHECK(test::read_file(path) == parameters.file(true));
}

TEST_CASE_FIXTURE(Fixture, "a job saves though the one before it failed") {
  SaveRequest failing = request();
  failing.path = folder.path("no/x.ckpt");
  const auto first = start(std::move(failing));
  const auto second = start(request(), first);
  second->wait(std::nullopt);
  second->result();
  CHECK(error_of([&] { first->result(); }).kind() == ErrorKind::kIo);
}

TEST_CASE_FIXTURE(Fixture, "a cancelled job leaves nothing behind and the old file as it was") {
  test::write_file(path, "the old file");
  SaveRequest wanted = request(gate);
  wanted.block_bytes = 20;
  const auto job = start(std::move(wanted));
  gate->wait_until_held_up();
  job->cancel();
  gate->let_go();
  job->wait(std::nullopt);
  CHECK(error_of([&] { job->result(); }).kind() == ErrorKind::kCancelled);
  CHECK(test::read_file(path) == "the old file");
  CHECK(folder.names() == Names{"x.ckpt"});
}

TEST_CASE_FIXTURE(Fixture, "a job is cancelled while it waits for another") {
  const auto first = start(request(gate));
  const auto second = start(request(), first);
  second->cancel();
  second->wait(std::nullopt);
  CHECK(error_of([&] { second->result(); }).kind() == ErrorKind::kCancelled);
  CHECK_FALSE(first->done());
  gate->let_go();
}

TEST_CASE_FIXTURE(Fixture, "a cancel after the end changes nothing") {
  const auto job = start(request());
  job->wait(std::nullopt);
  job->cancel();
  CHECK(job->result().nbytes == parameters.file(false).size());
  CHECK(test::read_file(path) == parameters.file(false));
}

TEST_CASE_FIXTURE(Fixture, "what went wrong is thrown each time it is asked for") {
  SaveRequest wanted = request();
  wanted.path = folder.path("no/x.ckpt");
  const auto job = start(std::move(wanted));
  job->wait(std::nullopt);
  for (int i = 0; i < 3; ++i) {
    const Error error = error_of([&] { job->result(); });
    CHECK(error.kind() == ErrorKind::kIo);
    CHECK(error.error_number() == ENOENT);
  }
  CHECK(job->done());
}

TEST_CASE_FIXTURE(Fixture, "a failed save leaves nothing behind") {
  std::filesystem::create_directory(path);
  const auto job = start(request());
  job->wait(std::nullopt);
  CHECK(error_of([&] { job->result(); }).error_number() == EISDIR);
  CHECK(folder.names() == Names{"x.ckpt"});
}

TEST_CASE_FIXTURE(Fixture, "destroying a running job cancels it and waits for its end") {
  SaveRequest wanted = request(gate);
  wanted.block_bytes = 20;
  auto job = start(std::move(wanted));
  gate->wait_until_held_up();
  std::jthread later([this] {
    std::this_thread::sleep_for(10ms);
    gate->let_go();
  });
  job.reset();
  CHECK(folder.names().empty());
}

TEST_CASE_FIXTURE(Fixture, "a predecessor lives as long as a job waits for it") {
  auto first = start(request(gate));
  const auto second = start(request(), first);
  gate->wait_until_held_up();
  const std::weak_ptr<SaveJob> watched = first;
  first.reset();
  CHECK_FALSE(watched.expired());
  gate->let_go();
  second->wait(std::nullopt);
  second->result();
}

TEST_CASE_FIXTURE(Fixture, "a snapshot that memory does not suffice for is thrown at once") {
  SaveRequest wanted = request();
  wanted.tensors[0].nbytes = uint64_t{1} << 48;
  wanted.snapshot = SnapshotPolicy::kHost;
  CHECK_THROWS_AS(start(std::move(wanted)), std::bad_alloc);
  CHECK(folder.names().empty());
}

TEST_CASE_FIXTURE(Fixture, "a job that was never started saves nothing and is not waited for") {
  SaveJob job(request());
  CHECK(job.file_nbytes() == parameters.file(false).size());
  CHECK_FALSE(job.done());
  CHECK(error_of([&] { job.wait(std::nullopt); }).kind() == ErrorKind::kInternal);
  CHECK(error_of([&] { job.result(); }).kind() == ErrorKind::kInternal);
  CHECK(folder.names().empty());
}

TEST_CASE_FIXTURE(Fixture, "a job is started once") {
  const auto job = start(request());
  CHECK(error_of([&] { job->start(nullptr); }).kind() == ErrorKind::kInternal);
  job->wait(std::nullopt);
  CHECK(error_of([&] { job->start(nullptr); }).kind() == ErrorKind::kInternal);
}

// A job for which no thread was to be had.
struct WithoutThread : Fixture {
  std::shared_ptr<SaveJob> left_to_caller(std::shared_ptr<SaveJob> after = nullptr) {
    auto job = std::make_shared<SaveJob>(request());
    const test::NoThreads none;
    CHECK_FALSE(job->start(std::move(after)));
    return job;
  }
};

TEST_CASE_FIXTURE(WithoutThread, "without a thread a job is run by its caller") {
  const auto job = left_to_caller();
  CHECK_FALSE(job->done());
  job->run_here([] {});
  CHECK(job->done());
  job->result();
  CHECK(test::read_file(path) == parameters.file(false));
  job->run_here([] {});  // once
}

TEST_CASE_FIXTURE(WithoutThread,
                  "others wait for a job that its caller runs, also before it does") {
  const auto job = left_to_caller();
  std::jthread other([&] { CHECK(job->wait(std::nullopt)); });
  const auto next = start(request(), job);
  CHECK_FALSE(next->wait(Clock::now() + 5ms));
  job->run_here([] {});
  other.join();
  next->wait(std::nullopt);
  next->result();
}

TEST_CASE_FIXTURE(WithoutThread, "a job that nobody has run ends when it is cancelled") {
  const auto job = left_to_caller();
  job->cancel();
  CHECK(job->done());
  CHECK(job->wait(std::nullopt));
  CHECK(error_of([&] { job->result(); }).kind() == ErrorKind::kCancelled);
  CHECK(error_of([&] { job->reached(SaveState::kWritten); }).kind() == ErrorKind::kCancelled);
  job->run_here([] {});
  CHECK(folder.names().empty());
}

TEST_CASE_FIXTURE(WithoutThread,
                  "the thread that runs a job can't wait for it or start a next one") {
  const auto first = start(request(gate));  // holds the job up for as long as it takes to look
  gate->wait_until_held_up();
  const auto job = left_to_caller(first);
  const auto next = std::make_shared<SaveJob>(request());
  int looks = 0;
  job->run_here([&] {
    ++looks;
    CHECK(error_of([&] { job->wait(std::nullopt); }).kind() == ErrorKind::kInternal);
    CHECK(error_of([&] { next->start(job); }).kind() == ErrorKind::kInternal);
    gate->let_go();
  });
  CHECK(looks > 0);
  job->result();
}

TEST_CASE_FIXTURE(WithoutThread, "whoever looks up from a job cancels it") {
  const auto first = start(request(gate));
  gate->wait_until_held_up();
  const auto job = left_to_caller(first);
  job->run_here([&] { job->cancel(); });
  CHECK(error_of([&] { job->result(); }).kind() == ErrorKind::kCancelled);
  gate->let_go();
}

TEST_CASE_FIXTURE(Fixture, "a job that is done keeps neither its key nor the job before it") {
  gate->let_go();
  auto first = start(request());
  const auto second = start(request(gate), first);
  second->wait(std::nullopt);
  const std::weak_ptr<SaveJob> watched = first;
  first.reset();
  CHECK(watched.expired());
  CHECK(gate.use_count() == 1);
  CHECK(second->file_nbytes() == second->result().nbytes);
}

TEST_CASE_FIXTURE(Fixture, "after a fork the child knows that the save is its parent's") {
  const auto job = start(request(gate));
  gate->wait_until_held_up();
  CHECK_FALSE(job->is_foreign());
  CHECK(succeeds_in_child([&job] {
    return job->is_foreign() &&
           error_of([&job] { job->wait(std::nullopt); }).kind() == ErrorKind::kInternal;
  }));
  gate->let_go();
  job->wait(std::nullopt);
  job->result();
  CHECK(folder.names() == Names{"x.ckpt"});
}

TEST_CASE_FIXTURE(Fixture, "after a fork the child has the result of a save that was done") {
  const auto job = start(request());
  job->wait(std::nullopt);
  CHECK(succeeds_in_child(
      [&job] { return job->wait(std::nullopt) && job->result().nbytes == job->file_nbytes(); }));
}

}  // namespace
}  // namespace mindckpt
