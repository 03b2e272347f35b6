#include "faults.h"

#include <atomic>
#include <unordered_map>

#include "simulation.h"

namespace stand_in {
namespace {

struct Calls {
  explicit Calls(int code) : failure(code) {}

  const int failure;
  std::atomic<int64_t> made{0};
  std::atomic<int64_t> failing{0};  // the value of `made` after the call that shall fail; 0: none
};

using CallsByName = std::unordered_map<std::string_view, Calls*>;

const CallsByName& all_calls() {
  static const CallsByName* const all = [] {
    auto* const by_name = new CallsByName;
    for (const Function& function : functions()) {
      by_name->emplace(function.name, new Calls(function.failure));
    }
    return by_name;
  }();
  return *all;
}

Calls& calls_of(std::string_view name) {
  const auto found = all_calls().find(name);
  if (found == all_calls().end()) die("this library has no function " + std::string(name));
  return *found->second;
}

}  // namespace

int count_call(std::string_view name) {
  Calls& calls = calls_of(name);
  const int64_t number = calls.made.fetch_add(1, std::memory_order_relaxed) + 1;
  if (number != calls.failing.load(std::memory_order_relaxed)) return 0;
  explain("a test made this call of " + std::string(name) + " fail");
  return calls.failure;
}

int64_t calls(std::string_view name) { return calls_of(name).made.load(); }

void fail_call(std::string_view name, int64_t nth) {
  if (name.empty()) {
    for (const auto& [ignored, calls] : all_calls()) calls->failing = 0;
    return;
  }
  Calls& calls = calls_of(name);
  calls.failing = nth <= 0 ? 0 : calls.made.load() + nth;
}

void reset_calls() {
  for (const auto& [ignored, calls] : all_calls()) {
    calls->failing = 0;
    calls->made = 0;
  }
}

bool is_function(std::string_view name) { return all_calls().contains(name); }

const std::string& function_names() {
  static const std::string* const names = [] {
    auto* const lines = new std::string;
    for (const Function& function : functions()) {
      if (!lines->empty()) lines->push_back('\n');
      lines->append(function.name);
    }
    return lines;
  }();
  return *names;
}

}  // namespace stand_in
