#include "python/gil.h"

#include <signal.h>
#include <unistd.h>

namespace mindckpt {

GilRelease::~GilRelease() {
  call_or_park([this] { PyEval_RestoreThread(state_); });
}

GilAcquire::GilAcquire() : state_(call_or_park([] { return PyGILState_Ensure(); })) {}

GilAcquire::~GilAcquire() {
  call_or_park([this] { PyGILState_Release(state_); });
}

void park_thread() noexcept {
  sigset_t all;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, nullptr);
  while (true) ::pause();
}

}  // namespace mindckpt
