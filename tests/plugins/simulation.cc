#include "simulation.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>

#include "faults.h"
#include "state.h"

namespace stand_in {
namespace {

thread_local std::string explained;

// The environment of a bad test is not worth an exception that no C caller could catch.
double number_of(std::string_view text) {
  const std::string copy(text);
  char* end = nullptr;
  const double number = std::strtod(copy.c_str(), &end);
  if (copy.empty() || *end != '\0') die("not a number in the environment: '" + copy + "'");
  return number;
}

// Calls `take` with both sides of each item of "a=1,b=2".
template <typename Take>
void split_pairs(std::string_view text, char between, Take&& take) {
  while (!text.empty()) {
    const size_t comma = text.find(',');
    const std::string_view pair = text.substr(0, comma);
    const size_t middle = pair.find(between);
    if (middle == std::string_view::npos) die("not a pair: '" + std::string(pair) + "'");
    take(pair.substr(0, middle), number_of(pair.substr(middle + 1)));
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
  }
}

}  // namespace

State& state() {
  static State* const only = new State;
  return *only;
}

void die(const std::string& message) {
  std::fprintf(stderr, "stand-in device: %s\n", message.c_str());
  std::abort();
}

void explain(std::string reason) { explained = std::move(reason); }
const char* explanation() { return explained.c_str(); }

Result refuse(Result result, std::string reason) {
  explain(std::move(reason));
  return result;
}

std::string name_of(const void* pointer) {
  char text[32];
  std::snprintf(text, sizeof(text), "%p", pointer);
  return text;
}

void require(Result result, const char* function) {
  if (result != Result::kOk) die(std::string(function) + ": " + explanation());
}

// ---- Settings

void read_environment() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (const char* const text = std::getenv("MINDCKPT_STAND_IN_FAIL")) {
      split_pairs(text, ':', [](std::string_view name, double nth) {
        if (is_function(name)) fail_call(name, static_cast<int64_t>(nth));
      });
    }
    if (const char* const text = std::getenv("MINDCKPT_STAND_IN_SPEED")) {
      std::map<std::string, double, std::less<>> values;
      split_pairs(text, '=', [&values](std::string_view name, double value) {
        values[std::string(name)] = value;
      });
      constexpr std::pair<const char*, Direction> kDirections[] = {{"d2h", Direction::kToHost},
                                                                   {"h2d", Direction::kToDevice},
                                                                   {"d2d", Direction::kOnDevice}};
      const double latency_seconds = values["latency"];
      values.erase("latency");
      for (const auto& [name, direction] : kDirections) {
        set_speed(direction, values[name], latency_seconds);
        values.erase(name);
      }
      if (!values.empty()) die("MINDCKPT_STAND_IN_SPEED knows no " + values.begin()->first);
    }
    if (const char* const text = std::getenv("MINDCKPT_STAND_IN_DEVICES")) {
      set_device_count(static_cast<int32_t>(number_of(text)));
    }
    if (const char* const text = std::getenv("MINDCKPT_STAND_IN_DRIVER")) {
      set_driver_version(static_cast<int32_t>(number_of(text)));
    }
    if (const char* const text = std::getenv("MINDCKPT_STAND_IN_INIT_ERROR")) {
      state().init_error = static_cast<int>(number_of(text));
    }
  });
}

bool is_forked_child() {
  const pid_t process = state().process.load(kRelaxed);
  if (process == 0 || process == ::getpid()) return false;
  explain("this process is a forked child of the one in which the driver was initialised");
  return true;
}

void enter_process() {
  pid_t none = 0;
  state().process.compare_exchange_strong(none, ::getpid(), kRelaxed);
}

int init_error() { return state().init_error; }

void reset_settings() {
  State& all = state();
  all.num_devices = kDefaultDevices;
  all.total_nbytes = kDefaultMemory;
  all.driver = kDefaultDriver;
  all.init_error = 0;
  set_random_delay(0, 0);
  for (Device& device : all.devices) {
    for (Engine& engine : device.engines) {
      engine.bytes_per_second = 0;
      engine.latency_seconds = 0;
      engine.copied = 0;
      engine.busy = 0;
    }
  }
}

void set_speed(Direction direction, double bytes_per_second, double latency_seconds) {
  const auto index = static_cast<size_t>(direction);
  if (index >= kNumDirections) die("no such direction");
  for (Device& device : state().devices) {
    device.engines[index].bytes_per_second = bytes_per_second;
    device.engines[index].latency_seconds = latency_seconds;
  }
}

void set_device_count(int32_t count) {
  if (count < 0 || count > kMostDevices) die(std::to_string(count) + " devices");
  state().num_devices = count;
}
int32_t device_count() { return state().num_devices; }

void set_memory(uint64_t total_nbytes) { state().total_nbytes = total_nbytes; }
void set_driver_version(int32_t version) { state().driver = version; }
int32_t driver_version() { return state().driver; }

uint64_t copied_nbytes(int32_t device, Direction direction) {
  if (device < 0 || device >= kMostDevices) return 0;
  return state().device(device).engines.at(static_cast<size_t>(direction)).copied;
}

double busy_seconds(int32_t device, Direction direction) {
  if (device < 0 || device >= kMostDevices) return 0;
  const int64_t busy = state().device(device).engines.at(static_cast<size_t>(direction)).busy;
  return static_cast<double>(busy) / 1e9;
}

// ---- What lives

void add_context(int32_t device, int64_t difference) {
  state().device(device).contexts += difference;
}
int64_t contexts(int32_t device) { return state().device(device).contexts; }

int64_t live(const std::string& kind) {
  State& all = state();
  int64_t count = 0;
  if (kind == "stream") {
    const std::lock_guard lock(all.streams_mutex);
    for (const auto& [handle, stream] : all.streams) count += stream->owner() == Owner::kEngine;
  } else if (kind == "event") {
    const std::lock_guard lock(all.events_mutex);
    count = static_cast<int64_t>(all.events.size());
  } else if (kind == "device_memory" || kind == "pinned_memory") {
    const std::lock_guard lock(all.memory_mutex);
    for (const auto& [begin, region] : all.regions) {
      const bool on_device = region->kind == Region::Kind::kDevice;
      count += region->owner == Owner::kEngine && on_device == (kind == "device_memory");
    }
  } else if (kind == "context") {
    for (const Device& device : all.devices) count += device.contexts;
  } else {
    die("nothing of the kind '" + kind + "' can live");
  }
  return count;
}

}  // namespace stand_in
