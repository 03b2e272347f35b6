#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "python/arguments.h"
#include "python/bind.h"
#include "python/device_array.h"
#include "python/gil.h"
#include "python/runtime.h"

namespace py = pybind11;

namespace mindckpt {
namespace {

py::list backends() {
  using namespace py::literals;
  std::vector<BackendInfo> found;
  {
    const GilRelease release;
    found = runtime().devices.list();
  }
  py::list list;
  for (const BackendInfo& info : found) {
    list.append(py::dict("name"_a = info.name, "origin"_a = info.origin, "version"_a = info.version,
                         "device_count"_a = info.device_count, "unusable"_a = info.unusable));
  }
  return list;
}

void add_backend(const py::capsule& capsule, const std::string& origin) {
  const auto* table = static_cast<const mindckpt_device_backend*>(
      PyCapsule_GetPointer(capsule.ptr(), MINDCKPT_DEVICE_ENTRY));
  if (table == nullptr) throw py::error_already_set();
  runtime().devices.add(table, origin);
}

std::string load_backend(const py::str& path) {
  const std::string resolved = file_system_path(path);
  const GilRelease release;
  return runtime().devices.load_plugin(resolved);
}

py::list staging_stats() {
  using namespace py::literals;
  struct Row {
    std::string device;
    StagingPool::Stats pool;
    uint64_t snapshot_nbytes;
    uint64_t kept_snapshot_nbytes;
  };
  std::vector<Row> rows;
  {
    const GilRelease release;  // a pool may be pinning memory at the moment
    const HostSnapshotMemory::Stats host = runtime().staging.host_snapshots().stats();
    if (host.nbytes > 0) {
      rows.push_back({"cpu", {host.limit_nbytes, 0, 0, 0, 0, 0}, host.nbytes, host.kept_nbytes});
    }
    for (const DeviceStaging* staging : runtime().staging.all()) {
      rows.push_back({staging->device.name(), staging->pool.stats(),
                      staging->snapshots.pinned_nbytes(), staging->snapshots.kept_nbytes()});
    }
  }
  py::list list;
  for (const Row& row : rows) {
    list.append(py::dict(
        "device"_a = row.device, "limit_nbytes"_a = row.pool.limit_nbytes,
        "pinned_nbytes"_a = row.pool.pinned_nbytes, "in_use_nbytes"_a = row.pool.in_use_nbytes,
        "peak_in_use_nbytes"_a = row.pool.peak_in_use_nbytes, "leases"_a = row.pool.leases,
        "waits"_a = row.pool.waits, "snapshot_nbytes"_a = row.snapshot_nbytes,
        "kept_snapshot_nbytes"_a = row.kept_snapshot_nbytes));
  }
  return list;
}

}  // namespace

void bind_devices(py::module_& module) {
  using namespace py::literals;
  py::class_<DeviceArray>(module, "DeviceArray")
      .def_static("find", &DeviceArray::find, "pointer"_a, "nbytes"_a, "stream"_a.none(true),
                  "owner"_a, "device"_a.none(true))
      .def_static("allocate", &DeviceArray::allocate, "device"_a, "nbytes"_a)
      .def("to_host", &DeviceArray::to_host)
      .def("assign", &DeviceArray::assign, "array"_a)
      .def("sync", &DeviceArray::sync)
      .def("refresh", &DeviceArray::refresh, "value"_a)
      .def_property_readonly("stream", &DeviceArray::stream_number)
      .def_property_readonly("device", &DeviceArray::device_name)
      .def_property_readonly("ordinal", &DeviceArray::ordinal)
      .def_property_readonly("dlpack_device_type", &DeviceArray::dlpack_device_type)
      .def_property_readonly("pointer", &DeviceArray::pointer)
      .def_property_readonly("nbytes", &DeviceArray::nbytes)
      .def_property_readonly("copy_alignment", &DeviceArray::copy_alignment);
  module.def("backends", &backends);
  module.def("add_backend", &add_backend, "capsule"_a, "origin"_a);
  module.def("load_backend", &load_backend, "path"_a);
  module.def(
      "backend_of_dlpack_type",
      [](int32_t type) { return runtime().devices.name_of_dlpack_type(type); }, "type"_a);
  module.def("check_device", [](const std::string& name) { named_device(name); }, "name"_a);
  module.def("staging_stats", &staging_stats);
  module.def("trim_staging", [] { runtime().staging.trim(); }, py::call_guard<GilRelease>());
  module.def(
      "set_staging_limit", [](uint64_t nbytes) { runtime().staging.set_limit(nbytes); }, "nbytes"_a,
      py::call_guard<GilRelease>());
  module.def(
      "set_snapshot_limit",
      [](uint64_t nbytes) { runtime().staging.host_snapshots().set_limit(nbytes); }, "nbytes"_a,
      py::call_guard<GilRelease>());
}

}  // namespace mindckpt
