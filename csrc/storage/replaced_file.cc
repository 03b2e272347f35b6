#include "storage/replaced_file.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <atomic>

#include "base/memory.h"
#include "storage/fd.h"

namespace mindckpt {

namespace {

// Threads of this process that are at it. A forked child has none of its parent's.
std::atomic<int> releases{0};

const bool forgets_at_fork = ::pthread_atfork(nullptr, nullptr, [] { releases.store(0); }) == 0;

void* let_go(void* page) {
  ::munmap(page, kPageBytes);
  return nullptr;
}

void* let_go_in_background(void* page) {
  let_go(page);
  releases.fetch_sub(1);
  return nullptr;
}

}  // namespace

ReplacedFile::ReplacedFile(int folder, const std::string& name) noexcept {
  const FileDescriptor fd(
      ::openat(folder, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat status;
  if (!fd.is_open() || ::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode) ||
      status.st_nlink != 1 || static_cast<uint64_t>(status.st_size) < kWorthBytes ||
      // A network's renames over a file that is in use are two: for a moment it has no name.
      !is_on_local_file_system(fd.get())) {
    return;
  }
  void* const page = ::mmap(nullptr, kPageBytes, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (page == MAP_FAILED) return;
  if (::madvise(page, kPageBytes, MADV_DONTFORK) != 0) {
    ::munmap(page, kPageBytes);
    return;
  }
  page_ = page;
}

ReplacedFile::~ReplacedFile() {
  if (page_ != nullptr) let_go(page_);
}

bool ReplacedFile::releases_pending() noexcept { return releases.load() > 0; }

void ReplacedFile::release_in_background() noexcept {
  if (page_ == nullptr) return;
  if (!forgets_at_fork) return;
  pthread_attr_t attributes;
  if (::pthread_attr_init(&attributes) != 0) return;
  ::pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  // Signals are for the threads of the program.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  releases.fetch_add(1);
  if (::pthread_create(&thread, &attributes, let_go_in_background, page_) == 0) {
    page_ = nullptr;
  } else {
    releases.fetch_sub(1);
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::pthread_attr_destroy(&attributes);
}

}  // namespace mindckpt
