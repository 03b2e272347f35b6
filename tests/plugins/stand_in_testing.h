#pragma once

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "device_api.h"
#include "stand_in_library.h"

// What the tests of the stand-ins themselves share.
namespace stand_in::test {

inline constexpr size_t kPageBytes = 4096;

inline const mindckpt_device_backend& table_of(const Library& library) {
  return *library.get<std::remove_pointer_t<mindckpt_device_entry>>(MINDCKPT_DEVICE_ENTRY)();
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// ---- Cases that end their process, or need a fresh one

struct Ended {
  int status;
  std::string output;
};

// Runs a skipped case of this program in a process of its own.
inline Ended run_case(const std::string& name, const std::string& environment = "") {
  char program[4096] = {};
  REQUIRE(::readlink("/proc/self/exe", program, sizeof(program) - 1) > 0);
  const std::string command =
      environment + " exec '" + program + "' --no-skip --test-case='" + name + "' 2>&1";
  FILE* const pipe = ::popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  Ended ended{};
  char part[512];
  while (std::fgets(part, sizeof(part), pipe) != nullptr) ended.output += part;
  ended.status = ::pclose(pipe);
  return ended;
}

inline void check_dies(const std::string& name, const std::string& message) {
  const Ended ended = run_case(name);
  INFO(ended.output);
  CHECK(ended.status != 0);
  CHECK(contains(ended.output, message));
}

inline void check_passes(const std::string& name, const std::string& environment = "") {
  const Ended ended = run_case(name, environment);
  INFO(ended.output);
  CHECK(ended.status == 0);
  CHECK(contains(ended.output, "1 passed"));
}

// A call of one function, in a story that calls all of them: returns its code. Each is called twice
// and must fail the first time, having done nothing.
struct Step {
  const char* function;
  std::function<int()> call;
};

inline void check_story(const StandIn& control, const std::vector<Step>& story) {
  std::vector<std::string> told;
  for (const Step& step : story) {
    CAPTURE(step.function);
    const int64_t before = control.calls(step.function);
    control.fail(step.function, 1);
    const int failure = step.call();
    CHECK(failure != 0);
    CHECK(contains(control.why(), "a test made this call"));
    const int success = step.call();
    INFO(control.why());
    CHECK(success == 0);
    CHECK(control.calls(step.function) == before + 2);
    told.emplace_back(step.function);
  }
  std::vector<std::string> names = control.function_names();
  std::sort(names.begin(), names.end());
  std::sort(told.begin(), told.end());
  CHECK(told == names);
  control.check_nothing_lives();
}

}  // namespace stand_in::test
