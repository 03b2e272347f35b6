#pragma once

#include <pybind11/pybind11.h>
#include <sys/types.h>

#include <optional>

#include "python/gil.h"

namespace mindckpt {

// What a handler of a signal raised, or a function of the user's, while the engine was at work;
// kept until that is over.
class Interrupt {
 public:
  // With the GIL: has Python handle its signals, then calls `function`, where there is one. True
  // when something was raised, by this call or an earlier one; nothing is called after that.
  bool look(pybind11::handle function = {});

  // Throws it, if there is something.
  void raise() const {
    if (raised_) throw pybind11::error_already_set(*raised_);
  }

 private:
  std::optional<pybind11::error_already_set> raised_;
};

// For the thread that saves or loads by itself, after a look: a child that was forked in it has the
// work of its parent on its stack, down to the file, and must not go back into it. Such a child
// ends here, having said what was raised in it.
void leave_if_forked(pid_t process, const Interrupt& interrupt);

}  // namespace mindckpt
