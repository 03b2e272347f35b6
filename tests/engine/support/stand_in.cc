#include "support/stand_in.h"

#include <cstring>
#include <memory>

namespace mindckpt::test {

namespace {

std::string library_of(const std::string& backend) {
  const std::string folder = STAND_IN_FOLDER "/";
  if (backend == "cuda") return folder + "libcuda.so.1";
  if (backend == "ascend") return folder + "libascendcl.so";
  return folder + "libmindckpt_sim.so";
}

}  // namespace

StandIn& StandIn::of(const std::string& backend) {
  static std::deque<std::unique_ptr<StandIn>> loaded;
  for (const auto& one : loaded) {
    if (one->backend() == backend) return *one;
  }
  return *loaded.emplace_back(new StandIn(backend));
}

StandIn::StandIn(const std::string& backend) : backend_(backend), path_(library_of(backend)) {
  void* library = ::dlopen(path_.c_str(), RTLD_NOW | RTLD_LOCAL);
  REQUIRE_MESSAGE(library != nullptr, ::dlerror());
  const auto find = [&](auto& function, const std::string& name) {
    void* symbol = ::dlsym(library, ("stand_in_" + name).c_str());
    REQUIRE_MESSAGE(symbol != nullptr, name);
    std::memcpy(&function, &symbol, sizeof(symbol));
  };
  find(reset, "reset");
  find(fail, "fail");
  find(calls, "calls");
  find(functions, "functions");
  find(live, "live");
  find(set_memory, "set_memory");
  find(set_speed, "set_speed");
  find(set_random_delay, "set_random_delay");
  find(allocate, "allocate");
  find(release, "release");
  find(write, "write");
  find(read, "read");
  find(stream_create, "stream_create");
  find(stream_destroy, "stream_destroy");
  find(stream_sync, "stream_sync");
  find(stream_write, "stream_write");
  find(stream_fill, "stream_fill");
  find(stream_delay, "stream_delay");
  find(stream_pause, "stream_pause");
  find(stream_resume, "stream_resume");
  find(stream_begin_capture, "stream_begin_capture");
}

namespace {

Device& device_of(DeviceRegistry& registry, const StandIn& stand_in) {
  if (stand_in.backend() == "sim") registry.load_plugin(stand_in.path());
  return registry.device(stand_in.backend(), 0);
}

}  // namespace

DeviceFixture::DeviceFixture(const std::string& backend, uint64_t staging_limit)
    : stand_in(StandIn::of(backend)),
      pools(staging_limit),
      device((stand_in.reset(), device_of(registry, stand_in))) {}

}  // namespace mindckpt::test
