#pragma once

#include <memory>
#include <span>

#include "base/bytes.h"
#include "base/cpu.h"
#include "cipher/frame.h"
#include "cipher/iv.h"
#include "cipher/kernels/gcm.h"

namespace mindckpt {

// AES-GCM over whole messages under one key, without additional data; an IV's first kGcmIvBytes
// count. Immutable: safe from any thread. Both ways work in place.
class GcmTransform {
 public:
  virtual ~GcmTransform() = default;
  // Returns the tag.
  virtual Tag encrypt(const Iv& iv, ByteView plain, ByteSpan ciphertext) const = 0;
  // Whether `tag` is the message's. `plain` is written either way.
  virtual bool decrypt(const Iv& iv, const Tag& tag, ByteView ciphertext, ByteSpan plain) const = 0;
};

inline constexpr size_t kGcmIvBytes = 12;

// The fastest one for this machine. The key's length is right already.
std::unique_ptr<GcmTransform> make_aes_gcm(ByteView key);

std::unique_ptr<GcmTransform> make_openssl_aes_gcm(ByteView key);
// nullptr where the processor has no instructions for it, or does not give the known answers.
std::unique_ptr<GcmTransform> make_kernel_aes_gcm(ByteView key);
// By a kernel that this processor can run.
std::unique_ptr<GcmTransform> make_kernel_aes_gcm(const GcmKernel& kernel, ByteView key);

struct GcmChoice {
  const GcmKernel* kernel;
  CpuFeatures needs;
};

// Every kernel that was compiled in, whether or not this processor can run it, the fastest first.
std::span<const GcmChoice> gcm_choices();

// Whether a kernel gives known answers.
bool gives_known_tags(const GcmKernel& kernel);

}  // namespace mindckpt
