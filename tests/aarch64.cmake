# The engine and its tests for aarch64 on another Debian or Ubuntu, run by QEMU:
#   dpkg --add-architecture arm64 && apt-get update
#   apt-get install g++-aarch64-linux-gnu qemu-user libssl-dev:arm64 zlib1g-dev:arm64 libstdc++6:arm64
#   cmake --preset aarch64 && ninja -C build/aarch64 && qemu-aarch64 build/aarch64/tests/engine/engine_test
# QEMU passes few kinds of madvise on, knows no PR_GET_THP_DISABLE, and a program that starts itself
# needs binfmt: the cases about forked children's memory, huge pages and resident memory, and those of
# device_test that start themselves, fail there.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64)
# pkg-config, which FindOpenSSL asks, is this machine's.
set(OPENSSL_INCLUDE_DIR /usr/include)
set(OPENSSL_CRYPTO_LIBRARY /usr/lib/aarch64-linux-gnu/libcrypto.so)
