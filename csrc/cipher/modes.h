#pragma once

#include <memory>

#include "cipher/cbc.h"
#include "cipher/cipher.h"

// The two ways of sealing a block; Cipher::create picks. A key's length is right already.
namespace mindckpt {

std::unique_ptr<Cipher> make_gcm_cipher(ByteView key);

// CBC with PKCS#7 padding, over whichever library has the block cipher.
std::unique_ptr<Cipher> make_cbc_cipher(CipherMode mode, std::unique_ptr<CbcTransform> cbc);

}  // namespace mindckpt
