#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

// The functions of a stand-in library that count their calls and can be made to fail.
namespace stand_in {

struct Function {
  const char* name;
  int failure;  // the code that an injected failure returns
};

// Defined by each library: all of its functions, in the order of stand_in_functions().
std::span<const Function> functions();

// Counts a call; returns the failure's code when this is the call that shall fail, else 0.
// `name` must be one of functions().
int count_call(std::string_view name);

int64_t calls(std::string_view name);
void fail_call(std::string_view name, int64_t nth);  // see stand_in_fail
void reset_calls();
bool is_function(std::string_view name);
const std::string& function_names();

}  // namespace stand_in
