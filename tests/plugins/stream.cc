#include "stream.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include <algorithm>
#include <utility>

namespace stand_in {
namespace {

// The end of a sleep that is spent spinning, for its precision.
constexpr int64_t kSpinNanoseconds = 20'000;

struct Delays {
  std::atomic<uint64_t> seed{0};
  std::atomic<double> max_seconds{0};
  std::atomic<uint64_t> setting{0};  // counts the changes, for which streams draw anew
};
Delays delays;

uint64_t next_number() {
  static std::atomic<uint64_t> next{0};
  return next.fetch_add(1, kRelaxed);
}

void sleep_until(int64_t deadline) {
  const int64_t left = deadline - kSpinNanoseconds - now();
  if (left > 0) std::this_thread::sleep_for(std::chrono::nanoseconds(left));
  while (now() < deadline) std::this_thread::yield();
}

}  // namespace

static_assert(std::chrono::steady_clock::period::den == 1'000'000'000);
int64_t now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
int64_t nanoseconds(double seconds) { return static_cast<int64_t>(seconds * 1e9); }

void set_random_delay(uint64_t seed, double max_seconds) {
  delays.seed = seed;
  delays.max_seconds = max_seconds;
  ++delays.setting;
}

Stream::Stream(int32_t device, Kind kind, Owner owner)
    : device_(device), kind_(kind), owner_(owner), number_(next_number()) {}

Stream::~Stream() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void Stream::put(Work work, bool delayed) {
  const std::lock_guard lock(mutex_);
  items_.push_back({std::move(work), now(), delayed});
  if (!thread_.joinable()) start();
  changed_.notify_all();
}

std::shared_ptr<Marker> Stream::mark(bool delayed) {
  auto marker = std::make_shared<Marker>();
  put([marker](Stream& stream) { marker->reach(stream.time_); }, delayed);
  return marker;
}

void Stream::wait(std::shared_ptr<Marker> marker, bool delayed) {
  put([marker = std::move(marker)](
          Stream& stream) { stream.time_ = std::max(stream.time_, marker->wait()); },
      delayed);
}

bool Stream::idle() {
  const std::lock_guard lock(mutex_);
  return items_.empty() && !busy_;
}

void Stream::pause() {
  auto gate = std::make_shared<Marker>();
  {
    const std::lock_guard lock(mutex_);
    gates_.push_back(gate);
  }
  wait(gate, false);
}

void Stream::resume() {
  const std::lock_guard lock(mutex_);
  for (const auto& gate : gates_) gate->reach(now());
  gates_.clear();
}

bool Stream::paused() {
  const std::lock_guard lock(mutex_);
  return !gates_.empty();
}

void Stream::pass_until(int64_t time) {
  time_ = std::max(time_, time);
  sleep_until(time_);
}

void Stream::start() {
  enter_process();
  // Signals are for the threads that there would be with a real driver.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Stream::run() {
  ::prctl(PR_SET_NAME, "stand-in", 0, 0, 0);
  ::prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return closing_ || !items_.empty(); });
    if (items_.empty()) return;
    Item item = std::move(items_.front());
    items_.pop_front();
    busy_ = true;
    lock.unlock();
    time_ = std::max(time_, item.put_at);
    if (item.delayed) delay();
    item.work(*this);
    item.work = nullptr;  // what it uses may be freed from the moment that its end is known
    lock.lock();
    busy_ = false;
  }
}

void Stream::delay() {
  const double max_seconds = delays.max_seconds.load(kRelaxed);
  if (max_seconds <= 0) return;
  const uint64_t setting = delays.setting.load(kRelaxed);
  if (setting != delay_setting_) {
    delay_setting_ = setting;
    random_.seed(delays.seed.load(kRelaxed) * 1'000'003 + number_);
  }
  std::uniform_real_distribution<double> seconds(0.0, max_seconds);
  pass_until(std::max(time_, now()) + nanoseconds(seconds(random_)));
}

}  // namespace stand_in
