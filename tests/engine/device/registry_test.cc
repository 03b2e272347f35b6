#include "device/registry.h"

#include <doctest/doctest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/dynamic_library.h"
#include "device/exercise.h"
#include "support/child.h"
#include "support/temporary_folder.h"

namespace mindckpt {
namespace {

using test::error_of;
using test::StandIn;
using test::TemporaryFolder;

const std::string kFolder = STAND_IN_FOLDER "/";
const std::string kBadFolder = BAD_PLUGIN_FOLDER "/";

// A table that works, to be spoilt.
const mindckpt_device_backend& minimal_table() {
  std::string why;
  const auto library = DynamicLibrary::load(kFolder + "libmindckpt_minimal.so",
                                            DynamicLibrary::Symbols::kAtOnce, why);
  REQUIRE_MESSAGE(library.has_value(), why);
  const mindckpt_device_entry entry = library->symbol(MINDCKPT_DEVICE_ENTRY);
  REQUIRE(bool(entry != nullptr));
  return *entry();
}

// Sets it for new registries while it lives.
class PluginsVariable {
 public:
  explicit PluginsVariable(const std::string& paths) {
    ::setenv("MINDCKPT_DEVICE_PLUGINS", paths.c_str(), 1);
  }
  ~PluginsVariable() { ::unsetenv("MINDCKPT_DEVICE_PLUGINS"); }
  PluginsVariable(const PluginsVariable&) = delete;
  PluginsVariable& operator=(const PluginsVariable&) = delete;
};

std::vector<std::string> names_of(const std::vector<BackendInfo>& infos) {
  std::vector<std::string> names;
  for (const BackendInfo& info : infos) names.push_back(info.name);
  return names;
}
using Names = std::vector<std::string>;

std::string refusal_of(const mindckpt_device_backend& table) {
  DeviceRegistry registry;
  const Error error = error_of([&] { registry.add(&table, "a test"); });
  CHECK(error.kind() == ErrorKind::kInvalidArgument);
  const std::string what = error.what();
  CHECK(what.starts_with("device backend from a test: "));
  return what.substr(std::string("device backend from a test: ").size());
}

TEST_CASE("a registry touches no driver before a device is asked for") {
  StandIn& cuda = StandIn::of("cuda");
  StandIn& ascend = StandIn::of("ascend");
  cuda.reset();
  ascend.reset();
  {
    DeviceRegistry registry;
    CHECK(registry.name_of_dlpack_type(2) == "cuda");
    CHECK(registry.name_of_dlpack_type(12) == "ascend");
    CHECK(registry.name_of_dlpack_type(0) == "");
    CHECK(registry.name_of_dlpack_type(99) == "");
    CHECK(registry.attached().empty());
    registry.load_plugin(StandIn::of("sim").path());
  }
  for (StandIn* stand_in : {&cuda, &ascend, &StandIn::of("sim")}) {
    for (const char* function : {"cuInit", "cuDriverGetVersion", "aclInit", "init"}) {
      const std::string functions = std::string("\n") + stand_in->functions();
      if (functions.find('\n' + std::string(function) + '\n') == std::string::npos) continue;
      CHECK(stand_in->calls(function) == 0);
    }
  }
}

TEST_CASE("backends are listed in the order of their adding with what they are") {
  StandIn::of("cuda").reset();
  StandIn::of("ascend").reset();
  StandIn::of("sim").reset();
  DeviceRegistry registry;
  CHECK(registry.load_plugin(StandIn::of("sim").path()) == "sim");
  registry.add(&minimal_table(), "a test");
  const auto infos = registry.list();
  CHECK(names_of(infos) == Names{"cuda", "ascend", "sim", "minimal"});
  CHECK(infos[0].origin == "built in");
  CHECK(infos[0].version == "CUDA driver 12.8");
  CHECK(infos[0].device_count == 2);
  CHECK(infos[1].origin == "built in");
  CHECK(infos[1].version == "AscendCL 1.12.0");
  CHECK(infos[1].device_count == 2);
  CHECK(infos[2].origin == StandIn::of("sim").path());
  CHECK(infos[2].version == "simulated devices");
  CHECK(infos[3].origin == "a test");
  CHECK(infos[3].device_count == 1);
  for (const BackendInfo& info : infos) CHECK(info.unusable == "");
  CHECK(registry.attached().empty());
}

TEST_CASE("a minimal plug-in copies") {
  DeviceRegistry registry;
  registry.add(&minimal_table(), "a test");
  Device& device = registry.device("minimal", 0);
  const PinnedMemory host(device, 8192);
  const DeviceMemory memory(device, 4096);
  CHECK(reinterpret_cast<uintptr_t>(host.data()) % 4096 == 0);
  CHECK(registry.device_of(memory.data() + 100) == &device);
  DeviceStream stream(device, CopyDirection::kToDevice);
  const DeviceBinding binding(device);
  check_not_capturing(device, stream.get());  // it has no such function
  const test::Bytes bytes = test::Random(3).bytes(4096);
  std::ranges::copy(bytes, host.data());
  stream.copy({{memory.data(), host.data(), 4096}}, CopyDirection::kToDevice);
  stream.copy(
      {{host.data() + 4096, memory.data(), 2048}, {host.data() + 6144, memory.data() + 2048, 2048}},
      CopyDirection::kToHost);
  stream.sync();
  CHECK(test::same({host.data() + 4096, 4096}, bytes));
}

TEST_CASE("a device is attached once and found by its pointers") {
  StandIn& cuda = StandIn::of("cuda");
  StandIn& ascend = StandIn::of("ascend");
  cuda.reset();
  ascend.reset();
  void* const on_cuda = cuda.allocate(1, 1000);
  void* const on_ascend = ascend.allocate(0, 1000);
  {
    DeviceRegistry registry;
    Device& device = registry.device("cuda", 1);
    CHECK(&registry.device("cuda", 1) == &device);
    CHECK(cuda.live("context") == 1);
    CHECK(registry.device_of(on_cuda) == &device);
    CHECK(registry.device_of(static_cast<std::byte*>(on_cuda) + 999) == &device);
    CHECK(ascend.calls("aclInit") == 0);  // it was found before
    Device* const found = registry.device_of(on_ascend);
    REQUIRE(found != nullptr);
    CHECK(found->name() == "ascend:0");
    const int on_stack = 0;
    CHECK(registry.device_of(&on_stack) == nullptr);
    CHECK(registry.device_of(nullptr) == nullptr);
    CHECK(registry.attached() == std::vector<Device*>{&device, found});
  }
  CHECK(cuda.live("context") == 0);
  CHECK(ascend.live("context") == 0);
  cuda.release(on_cuda);
  ascend.release(on_ascend);
}

TEST_CASE("threads that ask at once get the same device") {
  StandIn::of("cuda").reset();
  DeviceRegistry registry;
  std::vector<Device*> found(8);
  std::vector<std::thread> threads;
  for (Device*& device : found) {
    threads.emplace_back([&] { device = &registry.device("cuda", 0); });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(found == std::vector<Device*>(8, &registry.device("cuda", 0)));
  CHECK(StandIn::of("cuda").calls("cuInit") == 1);
  CHECK(StandIn::of("cuda").live("context") == 1);
}

TEST_CASE("what is not there is said") {
  StandIn::of("cuda").reset();
  DeviceRegistry registry;
  const Error backend = error_of([&] { registry.device("tpu", 0); });
  CHECK(backend.kind() == ErrorKind::kUnavailable);
  CHECK(test::message(backend) == "no device backend is called 'tpu'; there are cuda, ascend");
  for (const int32_t ordinal : {-1, 2}) {
    const Error device = error_of([&] { registry.device("cuda", ordinal); });
    CHECK(device.kind() == ErrorKind::kUnavailable);
    CHECK(device.what() == "there is no cuda:" + std::to_string(ordinal) + " among 2 devices");
  }
}

TEST_CASE("a driver that failed to start is not asked again") {
  StandIn& cuda = StandIn::of("cuda");
  cuda.reset();
  cuda.fail("cuInit", 1);
  DeviceRegistry registry;
  const std::string why = error_of([&] { registry.device("cuda", 0); }).what();
  CHECK(why == "cuda: cuInit: CUDA_ERROR_NO_DEVICE (100): no CUDA-capable device is detected");
  const Error again = error_of([&] { registry.device("cuda", 0); });
  CHECK(again.kind() == ErrorKind::kUnavailable);
  CHECK(again.what() == why);
  const auto infos = registry.list();
  CHECK(infos[0].unusable == why);
  CHECK(infos[0].version == "");
  CHECK(registry.device_of(&why) == nullptr);
  CHECK(cuda.calls("cuInit") == 1);
  CHECK(DeviceRegistry().device("cuda", 0).name() == "cuda:0");  // a new one may
}

TEST_CASE("the same table may be added again, but no other one of its name") {
  DeviceRegistry registry;
  const mindckpt_device_backend& table = minimal_table();
  registry.add(&table, "a test");
  registry.add(&table, "another test");
  CHECK(registry.load_plugin(kFolder + "libmindckpt_minimal.so") == "minimal");
  const mindckpt_device_backend copy = table;
  const Error error = error_of([&] { registry.add(&copy, "a copy"); });
  CHECK(error.kind() == ErrorKind::kInvalidArgument);
  CHECK(test::message(error) ==
        "device backend from a copy: the name 'minimal' is that of a backend from a test");
  mindckpt_device_backend cuda = table;
  cuda.name = "cuda";
  CHECK(refusal_of(cuda) == "the name 'cuda' is that of a backend from built in");
}

TEST_CASE("a table for another version of the interface is refused") {
  mindckpt_device_backend table = minimal_table();
  table.abi_major = 2;
  CHECK(refusal_of(table) ==
        "it is for version 2 of the device interface, this mindckpt has version 1");
  DeviceRegistry registry;
  CHECK(error_of([&] { registry.add(nullptr, "a test"); }).kind() == ErrorKind::kInvalidArgument);
}

TEST_CASE("a table that is too short is refused, and one without the newest functions is not") {
  constexpr size_t kShortest = offsetof(mindckpt_device_backend, copy_batch_async);
  mindckpt_device_backend table = minimal_table();
  table.struct_size = kShortest - 1;
  CHECK(refusal_of(table) == "its table has " + std::to_string(kShortest - 1) +
                                 " bytes, at least " + std::to_string(kShortest) + " are needed");
  // Not a byte more is there to be read.
  const std::unique_ptr<std::byte[]> shortest(new std::byte[kShortest]);
  table.struct_size = kShortest;
  std::memcpy(shortest.get(), &table, kShortest);
  DeviceRegistry registry;
  registry.add(reinterpret_cast<const mindckpt_device_backend*>(shortest.get()), "a test");
  const Device& device = registry.device("minimal", 0);
  CHECK(bool(device.backend().table().copy_batch_async == nullptr));
  CHECK(bool(device.backend().table().copy_async == table.copy_async));
  CHECK(bool(device.backend().table().device_sync == nullptr));
  device.sync();  // as far as such a backend can
}

TEST_CASE("a table of a newer version with more functions is used as far as it is known") {
  std::vector<std::byte> longer(sizeof(mindckpt_device_backend) + 64, std::byte{0xA5});
  mindckpt_device_backend table = minimal_table();
  table.struct_size = static_cast<uint32_t>(longer.size());
  table.abi_minor = 7;
  std::memcpy(longer.data(), &table, sizeof(table));
  DeviceRegistry registry;
  registry.add(reinterpret_cast<const mindckpt_device_backend*>(longer.data()), "a test");
  CHECK(registry.device("minimal", 0).name() == "minimal:0");
}

TEST_CASE("a bad name is refused") {
  for (const char* name : {"", "Sim", "1sim", "my-device", "my device", "sim:0", "s\xC3\xAFm"}) {
    CAPTURE(name);
    mindckpt_device_backend table = minimal_table();
    table.name = name;
    CHECK(refusal_of(table) ==
          "its name must be lower-case letters and digits, and begin with a letter");
  }
  mindckpt_device_backend table = minimal_table();
  table.name = nullptr;
  refusal_of(table);
}

TEST_CASE("an alignment that is no power of two or more than a page is refused") {
  for (const uint32_t alignment : {0U, 3U, 48U, 8192U, 0xFFFFFFFFU}) {
    mindckpt_device_backend table = minimal_table();
    table.copy_alignment = alignment;
    CHECK(refusal_of(table) == "its copy_alignment must be a power of two and at most 256, not " +
                                   std::to_string(alignment));
  }
}

TEST_CASE("a table without one of the functions that must be there is refused") {
#define CHECK_REQUIRED(function)                                         \
  do {                                                                   \
    mindckpt_device_backend table = minimal_table();                     \
    table.function = nullptr;                                            \
    CHECK(refusal_of(table) == "its function " #function " is missing"); \
  } while (false)
  CHECK_REQUIRED(init);
  CHECK_REQUIRED(last_error);
  CHECK_REQUIRED(version);
  CHECK_REQUIRED(device_count);
  CHECK_REQUIRED(attach);
  CHECK_REQUIRED(detach);
  CHECK_REQUIRED(bind_thread);
  CHECK_REQUIRED(unbind_thread);
  CHECK_REQUIRED(pointer_info);
  CHECK_REQUIRED(host_alloc);
  CHECK_REQUIRED(host_free);
  CHECK_REQUIRED(device_alloc);
  CHECK_REQUIRED(device_free);
  CHECK_REQUIRED(memory_info);
  CHECK_REQUIRED(stream_create);
  CHECK_REQUIRED(stream_destroy);
  CHECK_REQUIRED(stream_wait_event);
  CHECK_REQUIRED(stream_sync);
  CHECK_REQUIRED(event_create);
  CHECK_REQUIRED(event_destroy);
  CHECK_REQUIRED(event_record);
  CHECK_REQUIRED(event_query);
  CHECK_REQUIRED(event_sync);
  CHECK_REQUIRED(copy_async);
#undef CHECK_REQUIRED
  mindckpt_device_backend table = minimal_table();
  table.host_register = [](void*, size_t) -> mindckpt_status { return MINDCKPT_OK; };
  CHECK(refusal_of(table) == "its function host_unregister is missing");
  table.host_unregister = [](void*) -> mindckpt_status { return MINDCKPT_OK; };
  table.host_register = nullptr;
  CHECK(refusal_of(table) == "its function host_register is missing");
}

TEST_CASE("a backend that fails without a word is an Error nevertheless") {
  mindckpt_device_backend table = minimal_table();
  table.last_error = []() -> const char* { return nullptr; };
  table.attach = [](int32_t) -> mindckpt_status { return 77; };
  DeviceRegistry registry;
  registry.add(&table, "a test");
  const Error error = error_of([&] { registry.device("minimal", 0); });
  CHECK(error.kind() == ErrorKind::kDevice);
  CHECK(test::message(error) ==
        "minimal:0: attach: failed with status 77, and no reason was given");
  CHECK(registry.attached().empty());
  mindckpt_device_backend dead = table;
  dead.name = "dead";
  dead.init = []() -> mindckpt_status { return MINDCKPT_ERROR; };
  registry.add(&dead, "a test");
  CHECK(test::message(error_of([&] { registry.device("dead", 0); })) ==
        "dead: init failed, and no reason was given");
}

TEST_CASE("what is no plug-in is refused with the reason") {
  DeviceRegistry registry;
  const TemporaryFolder folder;
  test::write_file(folder.path("text.so"), "this is no library, however long it is\n");
  const std::string copy = folder.path("libcopy.so");
  std::filesystem::copy_file(kFolder + "libmindckpt_minimal.so", copy);
  registry.add(&minimal_table(), "a test");
  const std::vector<std::pair<std::string, std::string>> bad = {
      {folder.path("missing.so"), "No such file"},
      {folder.path("text.so"), folder.path("text.so")},
      {folder.path(), folder.path()},
      {kFolder + "libcuda.so.1", "the library has no mindckpt_device_backend_v1"},
      {kBadFolder + "libbad_plugin_1.so", "it is for version 2 of the device interface"},
      {kBadFolder + "libbad_plugin_2.so", "there is no table"},
      {kBadFolder + "libbad_plugin_3.so", "function_that_is_nowhere"},
      {copy, "the name 'minimal' is that of a backend from a test"},
  };
  for (const auto& [bad_path, reason] : bad) {
    const std::string& path = bad_path;
    CAPTURE(path);
    const Error error = error_of([&] { registry.load_plugin(path); });
    CHECK(error.kind() == ErrorKind::kInvalidArgument);
    const std::string what = error.what();
    CAPTURE(what);
    CHECK(what.starts_with("device backend from " + path + ": "));
    CHECK(what.find(reason) != std::string::npos);
    CHECK(what.find('\n') == std::string::npos);
  }
  CHECK(names_of(registry.list()) == Names{"cuda", "ascend", "minimal"});
}

TEST_CASE("plug-ins of the environment are loaded when they are first asked for") {
  StandIn::of("sim").reset();
  const PluginsVariable variable(":" + StandIn::of("sim").path() + "::/nowhere/lib.so:" + kFolder +
                                 "libmindckpt_minimal.so:");
  DeviceRegistry registry;
  CHECK(registry.device("sim", 0).name() == "sim:0");
  const Error error = error_of([&] { registry.device("tpu", 0); });
  const std::string what = error.what();
  CHECK(what.starts_with(
      "no device backend is called 'tpu'; there are cuda, ascend, sim, minimal; the plug-in "
      "/nowhere/lib.so could not be loaded: "));
  const auto infos = registry.list();
  CHECK(names_of(infos) == Names{"cuda", "ascend", "sim", "minimal", "lib.so"});
  CHECK(infos.back().origin == "/nowhere/lib.so");
  CHECK(infos.back().unusable.find("No such file") != std::string::npos);
  CHECK(infos.back().device_count == 0);
  // Loading one of them by hand as well is no error.
  CHECK(registry.load_plugin(kFolder + "libmindckpt_minimal.so") == "minimal");
}

TEST_CASE("a plug-in of the environment is known by its DLPack type") {
  const PluginsVariable variable(kFolder + "libmindckpt_minimal.so");
  DeviceRegistry registry;
  CHECK(registry.name_of_dlpack_type(2) == "cuda");
  CHECK(names_of(registry.list()).back() == "minimal");
}

TEST_CASE("after a fork what was used is refused, and what was not can be begun with") {
  mindckpt_device_backend other = minimal_table();
  other.name = "other";
  DeviceRegistry registry;
  registry.add(&minimal_table(), "a test");
  registry.add(&other, "a test");
  registry.device("minimal", 0);
  CHECK(test::succeeds_in_child([&] {
    return error_of([&] { registry.device("minimal", 0); }).kind() == ErrorKind::kUnavailable &&
           registry.device("other", 0).name() == "other:0" && registry.attached().size() == 2;
  }));
  CHECK(registry.attached().size() == 1);
}

// ---- What run_case() starts with another environment.

TEST_CASE("probe: list the backends" * doctest::skip()) {
  if (const char* library = ::getenv("PROBE_LOADS")) {
    std::string why;
    CHECK_MESSAGE(DynamicLibrary::load(library, DynamicLibrary::Symbols::kAtOnce, why), why);
  }
  DeviceRegistry registry;
  for (const BackendInfo& info : registry.list()) {
    std::printf("%s: %s|%d|%s.\n", info.name.c_str(), info.version.c_str(), info.device_count,
                info.unusable.c_str());
  }
}

std::string listed(const std::string& backend,
                   const std::vector<std::pair<std::string, std::string>>& environment) {
  const test::CaseRun run = test::run_case("probe: list the backends", environment);
  CAPTURE(run.output);
  CHECK(run.passed);
  const size_t begin = run.output.find('\n' + backend + ": ");
  REQUIRE(begin != std::string::npos);
  const size_t text = begin + backend.size() + 3;
  return run.output.substr(text, run.output.find('\n', text) - text);
}

constexpr const char* kLibraryPath = "LD_LIBRARY_PATH";

TEST_CASE("the drivers are found by name") {
  CHECK(listed("cuda", {{kLibraryPath, kFolder}}) == "CUDA driver 12.8|2|.");
  CHECK(listed("ascend", {{kLibraryPath, kFolder}}) == "AscendCL 1.12.0|2|.");
}

TEST_CASE("a machine without a driver says what is missing") {
  const TemporaryFolder empty;
  for (const auto& [backend, what] :
       {std::pair<std::string, std::string>{
            "cuda", "no CUDA driver: libcuda.so.1: cannot open shared object file: "},
        {"ascend", "no AscendCL: libacl_rt.so: cannot open shared object file: "}}) {
    const std::string found = listed(backend, {{kLibraryPath, empty.path()},
                                               {"ASCEND_HOME_PATH", ""},
                                               {"ASCEND_TOOLKIT_HOME", empty.path()}});
    if (found.find("cannot open") == std::string::npos) {
      MESSAGE("skipped: this machine has a driver for " << backend);
      continue;
    }
    CHECK(found.starts_with("|0|" + backend + ": " + what));
  }
}

TEST_CASE("a library that is no driver says so") {
  const auto link = [](const std::string& target, const std::string& name) {
    std::filesystem::create_symlink(target, name);
  };
  {
    const TemporaryFolder folder;
    test::write_file(folder.path("libcuda.so.1"), std::string(100, 'x'));
    test::write_file(folder.path("libacl_rt.so"), std::string(100, 'x'));
    const std::string cuda = listed("cuda", {{kLibraryPath, folder.path()}});
    CHECK(cuda.starts_with("|0|cuda: no CUDA driver: " + folder.path("libcuda.so.1") + ": "));
    const std::string ascend = listed("ascend", {{kLibraryPath, folder.path()}});
    CHECK(ascend.starts_with("|0|ascend: no AscendCL: " + folder.path("libacl_rt.so") + ": "));
  }
  {
    const TemporaryFolder folder;
    link(kFolder + "libmindckpt_minimal.so", folder.path("libcuda.so.1"));
    CHECK(listed("cuda", {{kLibraryPath, folder.path()}}) ==
          "|0|cuda: libcuda.so.1 is no CUDA driver: it has no cuInit, or none of the functions "
          "that go with it.");
  }
  {
    const TemporaryFolder folder;
    link(kBadFolder + "libbad_plugin_4.so", folder.path("libcuda.so.1"));
    link(kBadFolder + "libbad_plugin_5.so", folder.path("libascendcl.so"));
    CHECK(listed("cuda", {{kLibraryPath, folder.path()}}) ==
          "|0|cuda: libcuda.so.1 for CUDA 12.4 lacks cuDeviceGet.");
    CHECK(listed("ascend", {{kLibraryPath, folder.path()}}) ==
          "|0|ascend: libascendcl.so lacks aclFinalize.");
  }
}

TEST_CASE("an error at the start of a driver is said") {
  const auto cuda = [](const char* code) {
    return listed("cuda", {{kLibraryPath, kFolder}, {"MINDCKPT_STAND_IN_INIT_ERROR", code}});
  };
  CHECK(cuda("34") ==
        "|0|cuda: libcuda.so.1 is the stub that CUDA toolkits bring for linking, not a driver: is "
        "a folder named 'stubs' in LD_LIBRARY_PATH?.");
  CHECK(cuda("100") ==
        "|0|cuda: cuInit: CUDA_ERROR_NO_DEVICE (100): no CUDA-capable device is detected.");
  CHECK(cuda("803") ==
        "|0|cuda: cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803): system has unsupported display "
        "driver / cuda driver combination.");
  CHECK(cuda("3") ==
        "|0|cuda: cuInit: CUDA_ERROR_NOT_INITIALIZED (3): initialization error; a process that was "
        "forked after CUDA was used can't use it: start processes by the \"spawn\" method.");
  CHECK(cuda("12345") == "|0|cuda: cuInit: error (12345): the driver has no words for it.");
  const std::string ascend =
      listed("ascend", {{kLibraryPath, kFolder}, {"MINDCKPT_STAND_IN_INIT_ERROR", "507899"}});
  CHECK(ascend.starts_with("|0|ascend: aclInit: error 507899 (the driver failed): EE507899: "));
}

TEST_CASE("AscendCL is found in the toolkit's folder, and first of all where it is loaded") {
  const TemporaryFolder home;
  const TemporaryFolder empty;
  std::filesystem::create_directory(home.path("lib64"));
  std::filesystem::create_symlink(kFolder + "libascendcl.so", home.path("lib64/libascendcl.so"));
  const std::string expected = "AscendCL 1.12.0|2|.";
  CHECK(listed("ascend", {{kLibraryPath, empty.path()}, {"ASCEND_HOME_PATH", home.path()}}) ==
        expected);
  CHECK(listed("ascend", {{kLibraryPath, empty.path()},
                          {"ASCEND_HOME_PATH", empty.path()},
                          {"ASCEND_TOOLKIT_HOME", home.path()}}) == expected);
  CHECK(listed("ascend", {{kLibraryPath, empty.path()},
                          {"ASCEND_HOME_PATH", ""},
                          {"PROBE_LOADS", home.path("lib64/libascendcl.so")}}) == expected);
}

TEST_CASE("probe: devices live until the process ends" * doctest::skip()) {
  static DeviceRegistry registry;
  static std::vector<PinnedMemory> pinned;
  static std::vector<DeviceMemory> memory;
  static std::vector<DeviceStream> streams;
  static std::vector<DeviceEvent> events;
  Device& device = registry.device("cuda", 0);
  pinned.emplace_back(device, 4096);
  memory.emplace_back(device, 4096);
  streams.emplace_back(device, CopyDirection::kToHost);
  events.emplace_back(device, EventUse::kHost);
}

TEST_CASE("a driver may shut down before the objects that use it go") {
  const TemporaryFolder folder;
  std::filesystem::create_symlink(kBadFolder + "libbad_plugin_6.so", folder.path("libcuda.so.1"));
  const test::CaseRun run =
      test::run_case("probe: devices live until the process ends", {{kLibraryPath, folder.path()}});
  CAPTURE(run.output);
  CHECK(run.passed);
  CHECK(run.output.find("the driver has shut down") != std::string::npos);
}

}  // namespace
}  // namespace mindckpt
