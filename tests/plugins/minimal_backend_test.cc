#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "device_api.h"
#include "stand_in_testing.h"

namespace stand_in::test {
namespace {

TEST_CASE("the minimal backend has all that it must have, and copies") {
  const Library library("libmindckpt_minimal.so");
  const mindckpt_device_backend& table = table_of(library);
  CHECK(table.struct_size == sizeof(table));
  CHECK(table.abi_major == MINDCKPT_DEVICE_ABI_MAJOR);
  CHECK(std::string(table.name) == "minimal");
  CHECK(!table.host_register);
  CHECK(!table.host_unregister);
  CHECK(!table.stream_is_capturing);
  CHECK(!table.copy_batch_async);

  char text[8] = {};
  int32_t count = 0;
  CHECK(table.init() == MINDCKPT_OK);
  CHECK(table.version(text, sizeof(text)) == MINDCKPT_OK);
  CHECK(table.device_count(&count) == MINDCKPT_OK);
  CHECK(count == 1);
  CHECK(table.attach(1) == MINDCKPT_ERROR);
  CHECK(std::string(table.last_error()) != "");
  CHECK(table.attach(0) == MINDCKPT_OK);
  CHECK(std::string(table.last_error()) == "");
  CHECK(table.bind_thread(0) == MINDCKPT_OK);

  void* host = nullptr;
  void* device = nullptr;
  void* stream = nullptr;
  void* event = nullptr;
  CHECK(table.host_alloc(&host, 1000) == MINDCKPT_OK);
  CHECK(reinterpret_cast<uintptr_t>(host) % kPageBytes == 0);
  CHECK(table.device_alloc(&device, 1000) == MINDCKPT_OK);
  CHECK(table.stream_create(&stream, MINDCKPT_DEVICE_TO_HOST) == MINDCKPT_OK);
  CHECK(table.event_create(&event, MINDCKPT_EVENT_HOST) == MINDCKPT_OK);

  mindckpt_pointer_info info{};
  auto* const inner = static_cast<unsigned char*>(device);
  CHECK(table.pointer_info(inner + 999, &info) == MINDCKPT_OK);
  CHECK(info.kind == MINDCKPT_POINTER_DEVICE);
  CHECK(table.pointer_info(inner + 1000, &info) == MINDCKPT_OK);
  CHECK(info.kind == MINDCKPT_POINTER_UNKNOWN);
  CHECK(table.pointer_info(host, &info) == MINDCKPT_OK);
  CHECK(info.kind == MINDCKPT_POINTER_UNKNOWN);

  std::memset(host, 5, 1000);
  CHECK(table.copy_async(device, host, 1000, MINDCKPT_HOST_TO_DEVICE, stream) == MINDCKPT_OK);
  std::memset(host, 6, 1000);
  CHECK(table.copy_async(host, device, 999, MINDCKPT_DEVICE_TO_HOST, stream) == MINDCKPT_OK);
  CHECK(table.event_record(event, stream) == MINDCKPT_OK);
  CHECK(table.stream_wait_event(stream, event) == MINDCKPT_OK);
  CHECK(table.event_query(event) == MINDCKPT_OK);
  CHECK(table.event_sync(event) == MINDCKPT_OK);
  CHECK(table.stream_sync(stream) == MINDCKPT_OK);
  std::vector<unsigned char> expected(999, 5);
  expected.push_back(6);
  const auto* const copied = static_cast<unsigned char*>(host);
  CHECK(std::vector<unsigned char>(copied, copied + 1000) == expected);

  uint64_t free_nbytes = 0;
  uint64_t total_nbytes = 0;
  CHECK(table.memory_info(&free_nbytes, &total_nbytes) == MINDCKPT_OK);
  CHECK(free_nbytes == total_nbytes - 1000);
  void* too_much = nullptr;
  CHECK(table.device_alloc(&too_much, total_nbytes) == MINDCKPT_OUT_OF_MEMORY);
  CHECK(table.event_destroy(event) == MINDCKPT_OK);
  CHECK(table.stream_destroy(stream) == MINDCKPT_OK);
  CHECK(table.device_free(device) == MINDCKPT_OK);
  CHECK(table.device_free(device) == MINDCKPT_ERROR);
  CHECK(table.host_free(host) == MINDCKPT_OK);
  CHECK(table.unbind_thread(0) == MINDCKPT_OK);
  CHECK(table.detach(0) == MINDCKPT_OK);
}

}  // namespace
}  // namespace stand_in::test
