#pragma once

#include <doctest/doctest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <string>
#include <utility>
#include <vector>

namespace mindckpt::test {

// Runs `body` in a forked child and returns whether it came to a good end in time.
template <typename Body>
bool succeeds_in_child(const Body& body) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::alarm(60);  // ends the child where it hangs
    bool succeeds = false;
    try {
      succeeds = body();
    } catch (...) {
      // Whoever caught it would go on with the parent's cases.
    }
    // Not _exit(), where ThreadSanitizer looks for threads that nobody joined: those are the
    // parent's, and it counts one of them or not by how far it had come at the fork.
    ::syscall(SYS_exit_group, succeeds ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

struct CaseRun {
  bool passed;
  std::string output;
};

// Runs a case of this test program, one that is marked with doctest::skip(), in a process of its
// own, with these variables in its environment.
inline CaseRun run_case(const std::string& name,
                        const std::vector<std::pair<std::string, std::string>>& variables) {
  std::vector<std::string> environment;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable;
    bool replaced = false;
    for (const auto& [key, value] : variables) replaced |= text.starts_with(key + '=');
    if (!replaced) environment.push_back(text);
  }
  for (const auto& [key, value] : variables) environment.push_back(key + '=' + value);
  std::vector<char*> environment_pointers;
  for (std::string& variable : environment) environment_pointers.push_back(variable.data());
  environment_pointers.push_back(nullptr);
  std::string program = "/proc/self/exe";
  std::string chosen = "--test-case=" + name;
  std::string all = "--no-skip";
  std::array<char*, 4> arguments = {program.data(), chosen.data(), all.data(), nullptr};

  std::array<int, 2> ends{};
  REQUIRE(::pipe(ends.data()) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::alarm(240);  // less than ctest gives, so that its output is seen
    ::dup2(ends[1], STDOUT_FILENO);
    ::dup2(ends[1], STDERR_FILENO);
    ::execve(program.c_str(), arguments.data(), environment_pointers.data());
    ::syscall(SYS_exit_group, 127);
  }
  ::close(ends[1]);
  CaseRun run{};
  std::array<char, 4096> part{};
  for (ssize_t n = 0; (n = ::read(ends[0], part.data(), part.size())) > 0;) {
    run.output.append(part.data(), static_cast<size_t>(n));
  }
  ::close(ends[0]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  run.passed = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  return run;
}

}  // namespace mindckpt::test
