#pragma once

#include <Python.h>
#include <cxxabi.h>

// The GIL, let go of and taken back without an end of the process. While an interpreter ends,
// CPython 3.10 to 3.13 ends every other thread that asks for the GIL by pthread_exit(). That
// unwinds the thread's C++ frames: std::terminate() at the first one that is noexcept, such as a
// destructor that takes the GIL back, and the end of memory that other threads still work on. Here
// such a thread is parked instead, for what is left of the process, and nothing on its stack is
// ever destroyed; as CPython 3.14 does it.
namespace mindckpt {

// What `act` returns. `act` is one call into Python that may take the GIL, which any Python code
// does: a call alone, without an object that would be destroyed if it did not return.
template <typename Act>
auto call_or_park(const Act& act);

// Lets go of the GIL for as long as this lives, which is on the stack and outlives the locks that
// are taken meanwhile: a parked thread would keep them.
class GilRelease {
 public:
  GilRelease() : state_(PyEval_SaveThread()) {}
  ~GilRelease();
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;

  // Runs `act` with the GIL meanwhile.
  template <typename Act>
  void with_gil(const Act& act);

 private:
  PyThreadState* state_;
};

// Has the GIL for as long as this lives, on a thread that may have it or not.
class GilAcquire {
 public:
  GilAcquire();
  ~GilAcquire();
  GilAcquire(const GilAcquire&) = delete;
  GilAcquire& operator=(const GilAcquire&) = delete;

 private:
  PyGILState_STATE state_;
};

// For ever, and deaf to signals, which are for the threads that go on.
[[noreturn]] void park_thread() noexcept;

template <typename Act>
auto call_or_park(const Act& act) {
  try {
    return act();
  } catch (const abi::__forced_unwind&) {
    park_thread();
  }
}

template <typename Act>
void GilRelease::with_gil(const Act& act) {
  call_or_park([this] { PyEval_RestoreThread(state_); });
  struct LetGoAgain {
    PyThreadState*& state;
    ~LetGoAgain() { state = PyEval_SaveThread(); }
  } const again{state_};  // whatever is thrown
  act();
}

}  // namespace mindckpt
