#include "support/out_of_memory.h"

#include <cstdlib>
#include <new>

namespace mindckpt::test {
namespace {

thread_local bool is_counting = false;
thread_local size_t allocations_left = 0;
thread_local bool was_refused = false;

}  // namespace

OutOfMemory::OutOfMemory(size_t nth) noexcept {
  allocations_left = nth;
  was_refused = false;
  is_counting = true;
}

OutOfMemory::~OutOfMemory() { is_counting = false; }

bool OutOfMemory::came_about() const noexcept { return was_refused; }

static bool is_refused() noexcept {
  if (!is_counting) return false;
  if (allocations_left == 0) return was_refused = true;
  --allocations_left;
  return false;
}

}  // namespace mindckpt::test

// The program's own allocation functions; those for arrays and for sizes end up here too.
void* operator new(std::size_t nbytes) {
  void* const memory =
      mindckpt::test::is_refused() ? nullptr : std::malloc(nbytes == 0 ? 1 : nbytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
