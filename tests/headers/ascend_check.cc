// Compiled, and never run, by `make headers`: csrc/device/ascend_api.h against the acl/acl.h of a
// toolkit. With PLANTED_MISTAKE it must not compile, which shows that each kind of check can fail.

// Ours first: AscendCL's headers make macros of some of these names.
#include "device/ascend_api.h"

// The real ones.
#include <acl/acl.h>

#include <type_traits>
#include <utility>

#include "same_abi.h"

namespace ours = mindckpt::ascend;

#define CHECK_TYPE(name, type) static_assert(kPassedAlike<type, ::name>, #name);
MINDCKPT_ASCEND_TYPES(CHECK_TYPE)

#define CHECK_CONSTANT(type, name, value) \
  static_assert(static_cast<type>(name) == static_cast<type>(value), #name);
MINDCKPT_ASCEND_CONSTANTS(CHECK_CONSTANT)

// A cast chooses the one function among newer toolkits' overloads, and fails if there is none.
template <typename Function>
constexpr bool is_declared(Function* function) {
  return function != nullptr;
}

// `parameters` names the types of acl.h here.
#define CHECK_FUNCTION(result, name, parameters) \
  static_assert(is_declared<result parameters>(&::name), #name);
MINDCKPT_ASCEND_FUNCTIONS(CHECK_FUNCTION)
MINDCKPT_ASCEND_WORDS(CHECK_FUNCTION)

#ifdef HAS_POINTER_ATTRIBUTES  // the toolkit is one of the newer
MINDCKPT_ASCEND_NEWER_CONSTANTS(CHECK_CONSTANT)
MINDCKPT_ASCEND_POINTERS(CHECK_FUNCTION)
SAME_MEMBER(ours::aclrtPtrAttributes, ::aclrtPtrAttributes, pageSize);
SAME_MEMBER(ours::aclrtPtrAttributes, ::aclrtPtrAttributes, rsv);
SAME_SIZE(ours::aclrtPtrAttributes, ::aclrtPtrAttributes);
#endif
SAME_MEMBER(ours::aclrtMemLocation, ::aclrtMemLocation, id);
SAME_MEMBER(ours::aclrtMemLocation, ::aclrtMemLocation, type);
SAME_SIZE(ours::aclrtMemLocation, ::aclrtMemLocation);

#if PLANTED_MISTAKE == 1
CHECK_TYPE(aclrtMemcpyKind, short)
#elif PLANTED_MISTAKE == 2
CHECK_CONSTANT(aclError, ACL_ERROR_RT_CONTEXT_NULL, 107003)
#elif PLANTED_MISTAKE == 3
CHECK_FUNCTION(aclError, aclrtGetMemInfo, (aclrtMemAttr kind, uint32_t* free, uint32_t* total))
#elif PLANTED_MISTAKE == 4
struct Swapped {
  int type;
  uint32_t id;
};
SAME_MEMBER(Swapped, ::aclrtMemLocation, id);
#endif
