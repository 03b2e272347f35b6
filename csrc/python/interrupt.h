#pragma once

#include <pybind11/pybind11.h>

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

}  // namespace mindckpt
