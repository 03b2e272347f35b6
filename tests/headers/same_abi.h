#pragma once

#include <cstddef>
#include <type_traits>

// What is asserted of a declaration of ours beside the one of the real header. Enumerations are
// integers here, and handles pointers: what counts is how they are passed.

template <typename Ours, typename Theirs>
inline constexpr bool kPassedAlike =
    sizeof(Ours) == sizeof(Theirs) && alignof(Ours) == alignof(Theirs) &&
    std::is_pointer_v<Ours> == std::is_pointer_v<Theirs> &&
    (std::is_integral_v<Theirs> || std::is_enum_v<Theirs>) == std::is_integral_v<Ours>;

// The member's own type, and where it lies.
#define SAME_MEMBER(ours, theirs, member)                                                     \
  static_assert(offsetof(ours, member) == offsetof(theirs, member), #theirs "." #member);     \
  static_assert(sizeof(std::declval<ours>().member) == sizeof(std::declval<theirs>().member), \
                #theirs "." #member)

#define SAME_SIZE(ours, theirs) \
  static_assert(sizeof(ours) == sizeof(theirs) && alignof(ours) == alignof(theirs), #theirs)
