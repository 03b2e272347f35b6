#include "base/dynamic_library.h"

#include <dlfcn.h>

#include <algorithm>

namespace mindckpt {

namespace {

// NODELETE: a driver's threads and exit handlers outlive whoever loaded it.
constexpr int kFlags = RTLD_LOCAL | RTLD_NODELETE;

}  // namespace

std::optional<DynamicLibrary> DynamicLibrary::load(const std::string& name, Symbols symbols,
                                                   std::string& why) {
  void* const handle =
      ::dlopen(name.c_str(), kFlags | (symbols == Symbols::kAtOnce ? RTLD_NOW : RTLD_LAZY));
  if (handle != nullptr) return DynamicLibrary(handle);
  const char* const reason = ::dlerror();
  why = reason != nullptr ? reason : name + ": it can't be loaded";
  std::ranges::replace(why, '\n', ' ');
  return std::nullopt;
}

std::optional<DynamicLibrary> DynamicLibrary::find_loaded(const std::string& name) {
  void* const handle = ::dlopen(name.c_str(), kFlags | RTLD_LAZY | RTLD_NOLOAD);
  if (handle == nullptr) return std::nullopt;
  return DynamicLibrary(handle);
}

DynamicLibrary::Symbol DynamicLibrary::symbol(const char* name) const noexcept {
  return {::dlsym(handle_, name)};
}

}  // namespace mindckpt
