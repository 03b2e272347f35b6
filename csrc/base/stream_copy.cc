#include "base/stream_copy.h"

#include <cstdint>
#include <cstring>

#include "base/error.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace mindckpt {

namespace {

#if defined(__x86_64__)

constexpr size_t kLineBytes = 64;
// From here on the caches' loss is not worth it, nor the wait at the end.
constexpr size_t kLeastBytes = size_t{64} << 10;
// How far ahead is read. By memcpy two threads of a Zen 4 copied 25 GB/s, by this loop 44, without
// prefetching 36.
constexpr size_t kAheadBytes = 1024;

void stream_lines(const std::byte* from, std::byte* to, size_t nbytes) {
  for (; nbytes > 0; nbytes -= kLineBytes, from += kLineBytes, to += kLineBytes) {
    _mm_prefetch(reinterpret_cast<const char*>(from) + kAheadBytes, _MM_HINT_NTA);
    const auto* const in = reinterpret_cast<const __m128i*>(from);
    auto* const out = reinterpret_cast<__m128i*>(to);
    const __m128i a = _mm_loadu_si128(in);
    const __m128i b = _mm_loadu_si128(in + 1);
    const __m128i c = _mm_loadu_si128(in + 2);
    const __m128i d = _mm_loadu_si128(in + 3);
    _mm_stream_si128(out, a);
    _mm_stream_si128(out + 1, b);
    _mm_stream_si128(out + 2, c);
    _mm_stream_si128(out + 3, d);
  }
  _mm_sfence();  // such stores are ordered by nothing else
}

#endif

}  // namespace

void stream_copy(ByteView from, ByteSpan to) {
  MINDCKPT_CHECK(from.size() == to.size());
  size_t done = 0;
#if defined(__x86_64__)
  if (from.size() >= kLeastBytes) {
    const size_t misaligned = reinterpret_cast<uintptr_t>(to.data()) % kLineBytes;
    const size_t head = misaligned == 0 ? 0 : kLineBytes - misaligned;
    std::memcpy(to.data(), from.data(), head);
    const size_t lines = (from.size() - head) / kLineBytes * kLineBytes;
    stream_lines(from.data() + head, to.data() + head, lines);
    done = head + lines;
  }
#endif
  if (done < from.size()) std::memcpy(to.data() + done, from.data() + done, from.size() - done);
}

}  // namespace mindckpt
