#include "python/runtime.h"

namespace mindckpt {

Runtime& runtime() {
  static auto* const only = new Runtime;
  return *only;
}

}  // namespace mindckpt
