#include "storage/refusals.h"

#include <cerrno>
#include <system_error>

namespace mindckpt {

void Refusals::add(const char* call, int error_number) {
  if (!text_.empty()) text_ += "; ";
  text_ += std::string(call) + ": " + std::generic_category().message(error_number);
}

bool says_not_supported(int error_number) noexcept {
  return error_number == EINVAL || error_number == ENOSYS || error_number == EOPNOTSUPP;
}

}  // namespace mindckpt
