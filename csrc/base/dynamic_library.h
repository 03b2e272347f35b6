#pragma once

#include <bit>
#include <optional>
#include <string>

namespace mindckpt {

// A shared library that was found at run time. It stays loaded until the process ends, so what it
// gave out stays valid; copies are the same library.
class DynamicLibrary {
 public:
  enum class Symbols {
    kWhenCalled,  // for libraries that lack functions which nobody calls
    kAtOnce,      // one that lacks anything is not loaded
  };

  // By its path, or, when there is no '/' in the name, where the system looks for libraries.
  // nullopt, and `why` says so in one line, when it can't be loaded.
  static std::optional<DynamicLibrary> load(const std::string& name, Symbols symbols,
                                            std::string& why);
  // Only when somebody else loaded it already.
  static std::optional<DynamicLibrary> find_loaded(const std::string& name);

  // Becomes a pointer of the type that it is assigned to; null where the library has no such
  // symbol.
  struct Symbol {
    void* address;

    template <typename Type>
    operator Type*() const noexcept {  // NOLINT(google-explicit-constructor): the purpose
      return std::bit_cast<Type*>(address);
    }
  };
  Symbol symbol(const char* name) const noexcept;

 private:
  explicit DynamicLibrary(void* handle) : handle_(handle) {}

  void* handle_;
};

}  // namespace mindckpt
