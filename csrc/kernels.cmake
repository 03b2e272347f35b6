# The kernels, each compiled for the instructions that it needs; cpu_features() decides at run
# time which of them are called. The rest of the engine is for any processor of the architecture.
function(add_kernel file)
  target_sources(mindckpt_engine PRIVATE csrc/${file})
  set_source_files_properties(csrc/${file} PROPERTIES COMPILE_OPTIONS "${ARGN}")
endfunction()

# GCC 12 takes the registers that its own AVX-512 headers leave undefined for mistakes (bug 105593).
set(avx512 -mavx512f -mavx512bw -mavx512vl
  $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized> $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  add_kernel(checksum/kernels/crc32_vpclmul256.cc -mavx2 -mpclmul -mvpclmulqdq)
  add_kernel(cipher/kernels/aes_cbc_aesni.cc -maes -mssse3)
  add_kernel(cipher/kernels/aes_cbc_vaes256.cc -mavx2 -maes -mvaes)
  add_kernel(cipher/kernels/aes_cbc_vaes512.cc ${avx512} -maes -mvaes)
  add_kernel(cipher/kernels/gcm_vaes256.cc -mavx2 -maes -mvaes -mpclmul -mvpclmulqdq)
  add_kernel(cipher/kernels/sm4_cbc_aesni.cc -mavx2 -maes)
  add_kernel(cipher/kernels/sm4_cbc_vaes256.cc -mavx2 -maes -mvaes)
  add_kernel(cipher/kernels/sm4_cbc_gfni256.cc -mavx2 -mgfni)
  add_kernel(cipher/kernels/sm4_cbc_gfni512.cc ${avx512} -mgfni)
  add_kernel(cipher/kernels/sm4_cbc_gfni512_sliced.cc ${avx512} -mgfni)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  add_kernel(cipher/kernels/aes_cbc_neon.cc -march=armv8-a+crypto)
  add_kernel(cipher/kernels/sm4_cbc_neon.cc -march=armv8-a+crypto)
endif()
