// The Python face of the engine: the one file that knows pybind11, NumPy and the GIL.
// Its interface is documented in mindckpt/_core.pyi.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/memory.h"
#include "base/workers.h"
#include "cipher/cipher.h"
#include "cipher/sm4.h"
#include "device/registry.h"
#include "device/staging.h"
#include "engine/checkpoint_file.h"
#include "engine/device_copy.h"
#include "engine/job.h"
#include "image/element_type.h"
#include "python/dlpack.h"
#include "storage/mapping.h"

#define MINDCKPT_STRINGIFY(text) #text
#define MINDCKPT_STRING(text) MINDCKPT_STRINGIFY(text)

namespace py = pybind11;

namespace mindckpt {
namespace {

// ---- errors

// Any bytes can be a path: those that are no text come as surrogates, as Python has them
// everywhere.
py::str decoded_path(const std::string& path) {
  return py::reinterpret_steal<py::str>(
      PyUnicode_DecodeFSDefaultAndSize(path.data(), static_cast<Py_ssize_t>(path.size())));
}

void set_python_error(const Error& error) {
  const auto raise = [&](const char* name) {
    const py::object type = py::module_::import("mindckpt.errors").attr(name);
    py::str message(error.what());
    if (!error.path().empty()) message = decoded_path(error.path()) + py::str(": ") + message;
    PyErr_SetObject(type.ptr(), message.ptr());
  };
  switch (error.kind()) {
    case ErrorKind::kInvalidArgument:
      PyErr_SetString(PyExc_ValueError, error.what());
      return;
    case ErrorKind::kIo: {
      // Called with an errno, OSError makes itself the subclass that fits, such as PermissionError.
      const py::object os_error = py::reinterpret_borrow<py::object>(PyExc_OSError)(
          error.error_number(), error.what(), decoded_path(error.path()));
      PyErr_SetObject(py::type::handle_of(os_error).ptr(), os_error.ptr());
      return;
    }
    case ErrorKind::kFormat:
      return raise("CheckpointError");
    case ErrorKind::kChecksum:
      return raise("ChecksumError");
    case ErrorKind::kDecryption:
      return raise("DecryptionError");
    case ErrorKind::kUnavailable:
    case ErrorKind::kDevice:
    case ErrorKind::kCancelled:
    case ErrorKind::kInternal:
      PyErr_SetString(PyExc_RuntimeError, error.what());
      return;
  }
}

void translate(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const Error& error) {
    try {
      set_python_error(error);
    } catch (py::error_already_set& failed) {
      failed.restore();
    }
  }
}

// ---- arguments

std::string file_system_path(const py::str& path) {
  const auto bytes = py::reinterpret_steal<py::bytes>(PyUnicode_EncodeFSDefault(path.ptr()));
  if (!bytes) throw py::error_already_set();
  return bytes;
}

std::shared_ptr<const Cipher> make_cipher(const std::optional<py::bytes>& key,
                                          const std::string& mode) {
  if (!key) return nullptr;
  return Cipher::create(parse_cipher_mode(mode), as_bytes(std::string_view(*key)));
}

// NumPy reports strides for axes of length 1 and for empty arrays that mean nothing.
bool is_c_contiguous(const py::array& array) { return (array.flags() & py::array::c_style) != 0; }

uint64_t swap_nbytes(const py::dtype& dtype) {
  if (dtype.byteorder() != '>') return 0;
  const auto itemsize = static_cast<uint64_t>(dtype.itemsize());
  return dtype.kind() == 'c' ? itemsize / 2 : itemsize;
}

// ---- devices

// What this process knows of devices. Never destroyed: threads may be using it when the interpreter
// ends, and drivers take back what a process leaves.
struct Runtime {
  DeviceRegistry devices;
  StagingPools staging;
};

Runtime& runtime() {
  static auto* const only = new Runtime;
  return *only;
}

// The keys of __cuda_array_interface__, made once.
struct InterfaceNames {
  PyObject* interface = PyUnicode_InternFromString("__cuda_array_interface__");
  PyObject* version = PyUnicode_InternFromString("version");
  PyObject* typestr = PyUnicode_InternFromString("typestr");
  PyObject* shape = PyUnicode_InternFromString("shape");
  PyObject* data = PyUnicode_InternFromString("data");
  PyObject* strides = PyUnicode_InternFromString("strides");
  PyObject* mask = PyUnicode_InternFromString("mask");
  PyObject* stream = PyUnicode_InternFromString("stream");
};

const InterfaceNames* interface_names() {
  static const auto* const names = new InterfaceNames;
  return names;
}

// The contiguous memory of a tensor on a device, kept alive by its owner.
class DeviceArray {
 public:
  DeviceArray(const Device& device, uintptr_t pointer, uint64_t nbytes,
              std::optional<uintptr_t> stream, py::object owner)
      : device_(&device),
        pointer_(pointer),
        nbytes_(nbytes),
        stream_(stream),
        owner_(std::move(owner)) {}

  // By the pointer, or on the device of that name; None where it is no device's.
  static std::unique_ptr<DeviceArray> find(uintptr_t pointer, uint64_t nbytes,
                                           std::optional<uintptr_t> stream, py::object owner,
                                           const std::optional<std::string>& name) {
    const Device* device = nullptr;
    if (name) {
      device = &named(*name);
    } else {
      const py::gil_scoped_release release;
      device = runtime().devices.device_of(reinterpret_cast<const void*>(pointer));
    }
    if (device == nullptr) return nullptr;
    return std::make_unique<DeviceArray>(*device, pointer, nbytes, stream, std::move(owner));
  }

  // New memory of a device, owned by what this returns.
  static std::unique_ptr<DeviceArray> allocate(const std::string& name, uint64_t nbytes) {
    const Device& device = named(name);
    std::unique_ptr<DeviceMemory> memory;
    {
      const py::gil_scoped_release release;
      memory = std::make_unique<DeviceMemory>(device, nbytes);
    }
    const auto pointer = reinterpret_cast<uintptr_t>(memory->data());
    py::capsule owner(memory.get(), [](void* held) { delete static_cast<DeviceMemory*>(held); });
    memory.release();
    return std::make_unique<DeviceArray>(device, pointer, nbytes, std::nullopt, std::move(owner));
  }

  // "cuda:1", or "cuda" for its first.
  static const Device& named(const std::string& name) {
    const size_t colon = name.find(':');
    int32_t ordinal = 0;
    if (colon != std::string::npos) {
      const char* const end = name.data() + name.size();
      const auto parsed = std::from_chars(name.data() + colon + 1, end, ordinal);
      if (parsed.ec != std::errc() || parsed.ptr != end || ordinal < 0) {
        throw py::value_error("no device is called '" + name + "'");
      }
    }
    const py::gil_scoped_release release;
    return runtime().devices.device(std::string_view(name).substr(0, colon), ordinal);
  }

  py::array_t<uint8_t> to_host() const {
    auto buffer = std::make_unique<Buffer>(nbytes_);
    {
      const py::gil_scoped_release release;
      const CancelFlag never{false};
      copy_from_device(runtime().staging.of(*device_), stream(),
                       reinterpret_cast<const std::byte*>(pointer_), buffer->span(), never);
    }
    auto* const data = reinterpret_cast<uint8_t*>(buffer->data());
    const py::capsule owner(buffer.get(), [](void* held) { delete static_cast<Buffer*>(held); });
    buffer.release();
    return py::array_t<uint8_t>({static_cast<py::ssize_t>(nbytes_)}, {}, data, owner);
  }

  // Takes the stream that the tensor's array interface (version 3) names now, if it is of this
  // memory.
  bool refresh(const py::object& value) {
    const InterfaceNames* const names = interface_names();
    const auto interface =
        py::reinterpret_steal<py::object>(PyObject_GetAttr(value.ptr(), names->interface));
    if (!interface) throw py::error_already_set();
    if (!PyDict_CheckExact(interface.ptr())) return false;
    const auto item = [&](PyObject* key) { return PyDict_GetItemWithError(interface.ptr(), key); };
    PyObject* const version = item(names->version);
    PyObject* const data = item(names->data);
    PyObject* const stream = item(names->stream);
    if (version == nullptr || PyLong_AsLong(version) != 3 || data == nullptr ||
        !PyTuple_Check(data) || PyTuple_GET_SIZE(data) != 2 ||
        PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(data, 0)) != pointer_ ||
        (stream != nullptr && stream != Py_None && !PyLong_Check(stream))) {
      PyErr_Clear();
      return false;
    }
    stream_.reset();
    if (stream != nullptr && stream != Py_None) stream_ = PyLong_AsUnsignedLongLong(stream);
    return true;
  }

  // Waits for what its stream holds, or without one for nothing.
  void sync() const {
    if (!stream_) return;
    const py::gil_scoped_release release;
    const DeviceBinding binding(*device_);
    device_->check(device_->backend().table().stream_sync(*stream()), "stream_sync");
  }

  void assign(const py::array& from) const {
    if (!is_c_contiguous(from) || static_cast<uint64_t>(from.nbytes()) != nbytes_) {
      throw py::value_error("only a contiguous array of the same length can be assigned");
    }
    const ByteView bytes(static_cast<const std::byte*>(from.data()), nbytes_);
    const py::gil_scoped_release release;
    const CancelFlag never{false};
    copy_to_device(runtime().staging.of(*device_), stream(), bytes,
                   reinterpret_cast<std::byte*>(pointer_), never);
  }

  const Device& device() const { return *device_; }
  const std::string& device_name() const { return device_->name(); }
  int32_t ordinal() const { return device_->ordinal(); }
  int32_t dlpack_device_type() const { return device_->backend().dlpack_device_type(); }
  size_t copy_alignment() const { return device_->backend().copy_alignment(); }
  uintptr_t pointer() const { return pointer_; }
  uint64_t nbytes() const { return nbytes_; }
  std::optional<void*> stream() const {
    if (!stream_) return std::nullopt;
    return reinterpret_cast<void*>(*stream_);
  }

 private:
  const Device* device_;
  uintptr_t pointer_;
  uint64_t nbytes_;
  std::optional<uintptr_t> stream_;
  py::object owner_;
};

// The type string of elements that an array interface calls so, and their length.
const ElementType* find_typestr(std::string_view typestr) {
  static const auto* const known = [] {
    auto* types = new std::map<std::string, ElementType, std::less<>>;
    for (const auto& [numpy, type] :
         std::initializer_list<std::pair<const char*, const char*>>{{"|i1", "Int8"},
                                                                    {"<i2", "Int16"},
                                                                    {"<i4", "Int32"},
                                                                    {"<i8", "Int64"},
                                                                    {"|u1", "UInt8"},
                                                                    {"<u2", "UInt16"},
                                                                    {"<u4", "UInt32"},
                                                                    {"<u8", "UInt64"},
                                                                    {"<f2", "Float16"},
                                                                    {"<f4", "Float32"},
                                                                    {"<f8", "Float64"},
                                                                    {"|b1", "Bool"},
                                                                    {"<c8", "Complex64"},
                                                                    {"<c16", "Complex128"}}) {
      types->emplace(numpy, ElementType{type, element_nbytes(tensor_types(), type)});
    }
    return types;
  }();
  const auto found = known->find(typestr);
  return found == known->end() ? nullptr : &found->second;
}

// The record of a value whose __cuda_array_interface__ is of the simplest kind: version 3,
// contiguous, of a type that NumPy can name, not empty. None for any other. For saves of thousands
// of tensors, in which Python would take longer than everything else.
py::object device_record(const py::str& name, const py::object& value) {
  const InterfaceNames* const names = interface_names();
  const auto interface =
      py::reinterpret_steal<py::object>(PyObject_GetAttr(value.ptr(), names->interface));
  if (!interface) {
    if (!PyErr_ExceptionMatches(PyExc_Exception)) throw py::error_already_set();
    PyErr_Clear();
    return py::none();
  }
  if (!PyDict_CheckExact(interface.ptr())) return py::none();
  const auto item = [&](PyObject* key) {
    return py::handle(PyDict_GetItemWithError(interface.ptr(), key));
  };
  const py::handle version = item(names->version);
  const py::handle typestr = item(names->typestr);
  const py::handle shape = item(names->shape);
  const py::handle data = item(names->data);
  const auto is_absent = [](py::handle h) { return !h || h.is_none(); };
  if (!version || !PyLong_Check(version.ptr()) || PyLong_AsLong(version.ptr()) != 3 || !typestr ||
      !PyUnicode_Check(typestr.ptr()) || !shape || !PyTuple_CheckExact(shape.ptr()) || !data ||
      !PyTuple_Check(data.ptr()) || PyTuple_GET_SIZE(data.ptr()) != 2 ||
      !is_absent(item(names->strides)) || !is_absent(item(names->mask))) {
    return py::none();
  }
  const ElementType* const type = find_typestr(py::cast<std::string_view>(typestr));
  if (type == nullptr) return py::none();
  uint64_t nbytes = type->nbytes;
  // Any number that makes no sense is left to whoever can say what is wrong with it.
  constexpr uint64_t kMost = uint64_t{1} << 62;
  for (const py::handle dim : py::reinterpret_borrow<py::tuple>(shape)) {
    if (!PyLong_CheckExact(dim.ptr())) return py::none();
    const long long length = PyLong_AsLongLong(dim.ptr());
    if (length <= 0 || static_cast<uint64_t>(length) > kMost / nbytes) {
      PyErr_Clear();
      return py::none();
    }
    nbytes *= static_cast<uint64_t>(length);
  }
  const py::handle number = PyTuple_GET_ITEM(data.ptr(), 0);
  const py::handle stream = item(names->stream);
  if (!PyLong_Check(number.ptr()) || !(is_absent(stream) || PyLong_Check(stream.ptr()))) {
    return py::none();
  }
  const auto pointer = py::cast<uintptr_t>(number);
  std::optional<uintptr_t> handle;
  if (!is_absent(stream)) handle = py::cast<uintptr_t>(stream);
  if (nbytes == 0 || pointer == 0) return py::none();
  const Device* const device = runtime().devices.device_of(reinterpret_cast<const void*>(pointer));
  if (device == nullptr) return py::none();
  return py::make_tuple(name, type->name, shape,
                        std::make_unique<DeviceArray>(*device, pointer, nbytes, handle, value));
}

py::list backends() {
  using namespace py::literals;
  std::vector<BackendInfo> found;
  {
    const py::gil_scoped_release release;
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
  const py::gil_scoped_release release;
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
    const py::gil_scoped_release release;  // a pool may be pinning memory at the moment
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

// ---- tensors

HostLayout layout_of(const py::array& array) {
  HostLayout layout;
  layout.data = static_cast<const std::byte*>(array.data());
  layout.element_nbytes = static_cast<uint64_t>(array.itemsize());
  layout.swap_nbytes = swap_nbytes(array.dtype());
  if (is_c_contiguous(array) && layout.swap_nbytes == 0) return layout;
  layout.shape.assign(array.shape(), array.shape() + array.ndim());
  layout.stride_bytes.assign(array.strides(), array.strides() + array.ndim());
  return layout;
}

TensorRef tensor_ref(const py::handle& record) {
  const auto fields = py::cast<py::tuple>(record);
  if (fields.size() != 4) throw py::value_error("a record is (name, type, dims, payload)");
  TensorRef tensor;
  tensor.name = py::cast<std::string>(fields[0]);
  tensor.type = py::cast<std::string>(fields[1]);
  const auto dims = py::cast<py::tuple>(fields[2]);
  tensor.dims.reserve(dims.size());
  for (const py::handle dim : dims) tensor.dims.push_back(py::cast<int64_t>(dim));

  const py::object payload = fields[3];
  if (PyBytes_Check(payload.ptr())) {
    const auto text = static_cast<std::string_view>(py::reinterpret_borrow<py::bytes>(payload));
    tensor.layout.data = as_bytes(text).data();
    tensor.nbytes = text.size();
    return tensor;
  }
  if (!py::isinstance<py::array>(payload)) {
    const auto* array = py::cast<const DeviceArray*>(payload);
    tensor.layout.data = reinterpret_cast<const std::byte*>(array->pointer());
    tensor.nbytes = array->nbytes();
    tensor.device = &array->device();
    return tensor;
  }
  const auto array = py::reinterpret_borrow<py::array>(payload);
  const char kind = array.dtype().kind();
  if (kind == 'O' || array.itemsize() > 16 || array.itemsize() == 0) {
    throw py::type_error("parameter '" + tensor.name + "': its elements cannot be saved");
  }
  if (!std::equal(tensor.dims.begin(), tensor.dims.end(), array.shape(),
                  array.shape() + array.ndim())) {
    throw py::value_error("parameter '" + tensor.name + "': dims and shape differ");
  }
  tensor.layout = layout_of(array);
  tensor.nbytes = static_cast<uint64_t>(array.nbytes());
  return tensor;
}

// ---- saving

py::dict stats_dict(const std::string& path, const SaveStats& stats) {
  using namespace py::literals;
  return py::dict(
      "path"_a = decoded_path(path), "nbytes"_a = stats.nbytes,
      "payload_nbytes"_a = stats.payload_nbytes, "records"_a = stats.records,
      "blocks"_a = stats.blocks, "num_threads"_a = stats.num_threads, "durable"_a = stats.durable,
      "snapshot"_a = stats.snapshot, "snapshot_reason"_a = stats.snapshot_reason,
      "seconds"_a = stats.seconds, "snapshot_seconds"_a = stats.snapshot_seconds,
      "staged_seconds"_a = stats.staged_seconds, "written_seconds"_a = stats.written_seconds,
      "durable_seconds"_a = stats.durable_seconds, "copy_seconds"_a = stats.copy_seconds,
      "fill_seconds"_a = stats.fill_seconds, "checksum_seconds"_a = stats.checksum_seconds,
      "seal_seconds"_a = stats.seal_seconds, "write_seconds"_a = stats.write_seconds,
      "publish_seconds"_a = stats.publish_seconds);
}

SaveState parse_state(const std::string& name) {
  if (name == "staged") return SaveState::kStaged;
  if (name == "written") return SaveState::kWritten;
  if (name == "durable") return SaveState::kDurable;
  throw py::value_error("no state of a save is called '" + name + "'");
}

// A SaveJob with what its thread reads: the arrays live until it has ended.
class PyJob {
 public:
  PyJob(std::shared_ptr<SaveJob> job, std::string path, py::object arrays, const Device* device)
      : job_(std::move(job)), path_(std::move(path)), arrays_(std::move(arrays)), device_(device) {}
  ~PyJob() {
    // In a forked child the thread does not exist, and a thread of the parent may have been
    // waiting: the locks are in no state to be destroyed. What little there is stays.
    if (job_->is_foreign()) {
      new std::shared_ptr<SaveJob>(std::move(job_));
      return;
    }
    const py::gil_scoped_release release;
    // A later job that waits for this one keeps the SaveJob, but not the arrays.
    if (started_) {
      job_->cancel();
      job_->wait(std::nullopt);
    }
    job_.reset();
  }
  PyJob(const PyJob&) = delete;
  PyJob& operator=(const PyJob&) = delete;

  void start(const PyJob* after) {
    if (started_) throw std::runtime_error("the job was started already");
    const py::gil_scoped_release release;
    job_->start(after != nullptr ? after->job_ : nullptr);
    started_ = true;
  }

  bool wait(std::optional<double> timeout) const {
    check_started();
    const py::gil_scoped_release release;
    return job_->wait(deadline(timeout));
  }
  bool wait_for(const std::string& name, std::optional<double> timeout) const {
    check_started();
    const SaveState state = parse_state(name);
    const py::gil_scoped_release release;
    return job_->wait(state, deadline(timeout));
  }
  bool settled(const std::string& state) const { return job_->settled(parse_state(state)); }
  std::optional<double> reached(const std::string& state) const {
    return job_->reached(parse_state(state));
  }
  bool is_synchronous() const { return job_->is_synchronous(); }

  // The stream is one of the device of that name, else of the first one that is saved from.
  bool fence(uintptr_t stream, const std::optional<std::string>& device_name,
             double timeout) const {
    check_started();
    const Device* device = device_name ? &DeviceArray::named(*device_name) : device_;
    if (device == nullptr) throw py::value_error("the save is from no device: no stream can wait");
    const py::gil_scoped_release release;
    return job_->fence({device, reinterpret_cast<void*>(stream)}, *deadline(timeout));
  }
  // What is not read any more need not be kept.
  void release_arrays() {
    if (job_->settled(SaveState::kStaged)) arrays_ = py::none();
  }
  bool started() const { return started_; }
  bool done() const { return job_->done(); }
  void cancel() const { job_->cancel(); }
  std::pair<uint64_t, uint64_t> progress() const {
    return {job_->written_nbytes(), job_->file_nbytes()};
  }
  py::dict result() const { return stats_dict(path_, job_->result()); }
  py::list trace() const {
    py::list entries;
    for (const Trace::Entry& entry : job_->trace()) {
      entries.append(py::make_tuple(entry.stage, entry.worker, entry.block, entry.begin_seconds,
                                    entry.end_seconds));
    }
    return entries;
  }

 private:
  void check_started() const {
    if (!started_) throw std::runtime_error("the job was not started");
  }
  static std::optional<Clock::time_point> deadline(std::optional<double> timeout) {
    if (!timeout) return std::nullopt;
    // Clamped, because a clock's range is: a day, or a year, is as good as for ever.
    const double seconds = std::clamp(*timeout, 0.0, 3e7);
    return Clock::now() +
           std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  }

  std::shared_ptr<SaveJob> job_;
  std::string path_;
  py::object arrays_;
  const Device* device_;  // the first one, if any
  bool started_ = false;
};

SnapshotPolicy parse_snapshot(const std::string& name) {
  if (name == "none") return SnapshotPolicy::kNone;
  if (name == "host") return SnapshotPolicy::kHost;
  if (name == "device") return SnapshotPolicy::kDevice;
  if (name == "lazy") return SnapshotPolicy::kLazy;
  if (name == "auto") return SnapshotPolicy::kAuto;
  throw py::value_error("no snapshot policy is called '" + name + "'");
}

// The streams in which the tensors of a save were made, each once.
void add_producer(SaveRequest& request, const DeviceArray& array,
                  const std::optional<void*>& stream) {
  const auto same = [&](const Producer& producer) {
    return producer.stream == *stream && producer.device == &array.device();
  };
  if (std::ranges::none_of(request.producers, same)) {
    request.producers.push_back({&array.device(), *stream});
  }
}

std::unique_ptr<PyJob> prepare_save(const py::sequence& records, const py::str& path, bool crc,
                                    bool durable, const std::optional<py::bytes>& key,
                                    const std::string& mode, int num_threads, uint64_t block_bytes,
                                    const std::string& snapshot, std::optional<uintptr_t> stream,
                                    bool trace) {
  if (num_threads < 0) throw py::value_error("num_threads must not be negative");
  if (block_bytes > kMaxBlockBytes) throw py::value_error("block_bytes must be at most 64 MiB");
  SaveRequest request;
  request.path = file_system_path(path);
  request.crc = crc;
  request.durable = durable;
  request.cipher = make_cipher(key, mode);
  request.num_threads = num_threads;
  request.block_bytes = block_bytes;
  request.snapshot = parse_snapshot(snapshot);
  request.trace = trace;
  request.staging = &runtime().staging;
  // Taken once: a sequence of the caller's might answer differently the second time.
  const py::list kept(records);
  request.tensors.reserve(kept.size());
  const Device* first_device = nullptr;
  bool all_on_host = true;
  for (const py::handle record : kept) {
    request.tensors.push_back(tensor_ref(record));
    if (request.tensors.back().device == nullptr) continue;
    all_on_host = false;
    const py::object payload = py::cast<py::tuple>(record)[3];
    const auto* array = py::cast<const DeviceArray*>(payload);
    if (first_device == nullptr) first_device = &array->device();
    if (stream && first_device != &array->device()) {
      throw py::value_error("stream is of one device, and the tensors are on " +
                            first_device->name() + " and " + array->device_name());
    }
    // Both, where both are known: a copy that a framework made on the way is in the tensor's own.
    if (array->stream()) add_producer(request, *array, array->stream());
    if (stream) add_producer(request, *array, reinterpret_cast<void*>(*stream));
    if (!stream && !array->stream()) request.has_unknown_producer = true;
  }

  const std::string resolved = request.path;
  // Host memory that was copied need not be kept; device memory may still be read.
  const bool copied = all_on_host && request.snapshot != SnapshotPolicy::kNone &&
                      request.snapshot != SnapshotPolicy::kLazy;
  std::shared_ptr<SaveJob> job;
  {
    const py::gil_scoped_release release;
    job = std::make_shared<SaveJob>(std::move(request));
  }
  return std::make_unique<PyJob>(std::move(job), resolved,
                                 copied ? py::object(py::none()) : py::object(kept), first_device);
}

// ---- loading

// Runs `work(cancel)` on another thread while this one, without the GIL, looks for signals.
template <typename Work>
void run_interruptibly(const Work& work) {
  CancelFlag cancel{false};
  std::future<void> running;
  {
    const py::gil_scoped_release release;
    running = std::async(std::launch::async, [&] { work(cancel); });
  }
  while (true) {
    {
      const py::gil_scoped_release release;
      if (running.wait_for(std::chrono::milliseconds(100)) == std::future_status::ready) break;
    }
    if (PyErr_CheckSignals() != 0) {
      cancel.store(true, std::memory_order_relaxed);
      const py::gil_scoped_release release;
      running.wait();
      throw py::error_already_set();
    }
  }
  running.get();
}

// Hands out memory for arrays: large ones get a buffer of their own, small ones share.
class ArrayMemory {
 public:
  struct Place {
    std::byte* data;
    py::capsule owner;
  };

  Place take(size_t nbytes) {
    if (nbytes >= kSharedBytes / 16) return own(nbytes);
    const size_t rounded = (nbytes + kAlignment - 1) / kAlignment * kAlignment;
    if (!shared_ || used_ + rounded > kSharedBytes) {
      shared_ = own(kSharedBytes);
      used_ = 0;
    }
    Place place{shared_->data + used_, shared_->owner};
    used_ += rounded;
    return place;
  }

 private:
  // One huge page: a kept small tensor keeps no more than this alive.
  static constexpr size_t kSharedBytes = size_t{2} << 20;
  static constexpr size_t kAlignment = 64;

  static Place own(size_t nbytes) {
    auto buffer = std::make_unique<Buffer>(nbytes);
    std::byte* data = buffer->data();
    py::capsule owner(buffer.get(), [](void* held) { delete static_cast<Buffer*>(held); });
    buffer.release();
    return {data, std::move(owner)};
  }

  std::optional<Place> shared_;
  size_t used_ = 0;
};

const char* role_name(EntryRole role) {
  switch (role) {
    case EntryRole::kTensor:
      return "tensor";
    case EntryRole::kMapKey:
      return "map_key";
    case EntryRole::kMapValue:
      return "map_value";
    case EntryRole::kMapStatus:
      return "map_status";
  }
  MINDCKPT_CHECK(false);
}

class PyReader {
 public:
  PyReader(const py::str& path, const std::optional<py::bytes>& key, const std::string& mode) {
    const std::string resolved = file_system_path(path);
    std::shared_ptr<const Cipher> cipher = make_cipher(key, mode);
    const py::gil_scoped_release release;
    file_ = std::make_shared<CheckpointFile>(resolved, std::move(cipher));
  }

  py::list entries() const {
    py::list list(file_->entries().size());
    size_t i = 0;
    for (const Entry& entry : file_->entries()) {
      list[i++] = py::make_tuple(entry.name, entry.type, dims_tuple(entry.dims), entry.nbytes,
                                 role_name(entry.role));
    }
    return list;
  }
  bool has_crc() const { return file_->has_crc(); }
  bool is_sealed() const { return file_->is_sealed(); }

  py::list read(const std::vector<size_t>& indices, const std::vector<py::dtype>& dtypes,
                bool check_crc, int num_threads) const {
    if (num_threads < 0) throw py::value_error("num_threads must not be negative");
    if (num_threads == 0) num_threads = default_num_threads();
    check_indices(indices, dtypes.size());
    ArrayMemory memory;
    std::vector<Target> targets;
    targets.reserve(indices.size());
    py::list arrays(indices.size());
    for (size_t i = 0; i < indices.size(); ++i) {
      const Entry& entry = file_->entries()[indices[i]];
      const ArrayMemory::Place place = memory.take(entry.nbytes);
      arrays[i] = make_array(entry, dtypes[i], place.data, place.owner);
      targets.push_back({indices[i], place.data, nullptr});
    }
    std::ranges::sort(targets, {}, &Target::entry);
    run_interruptibly([&](const CancelFlag& cancel) {
      file_->read(targets, check_crc, {num_threads, cancel, nullptr, {}});
    });
    return arrays;
  }

  // The same into memory of devices, all of one backend whose copies take any alignment.
  void read_into(const std::vector<size_t>& indices, const std::vector<DeviceArray*>& arrays,
                 bool check_crc, int num_threads) const {
    if (num_threads < 0) throw py::value_error("num_threads must not be negative");
    if (num_threads == 0) num_threads = default_num_threads();
    check_indices(indices, arrays.size());
    std::vector<Target> targets;
    std::vector<Producer> producers;
    for (size_t i = 0; i < indices.size(); ++i) {
      const DeviceArray& array = *arrays[i];
      if (array.nbytes() != file_->entries()[indices[i]].nbytes) {
        throw py::value_error("an array has not the length of its entry");
      }
      targets.push_back(
          {indices[i], reinterpret_cast<std::byte*>(array.pointer()), &array.device()});
      const auto stream = array.stream();
      const auto same = [&](const Producer& producer) {
        return producer.device == &array.device() && producer.stream == *stream;
      };
      if (stream && std::ranges::none_of(producers, same)) {
        producers.push_back({&array.device(), *stream});
      }
    }
    std::ranges::sort(targets, {}, &Target::entry);
    run_interruptibly([&](const CancelFlag& cancel) {
      file_->read(targets, check_crc, {num_threads, cancel, &runtime().staging, producers});
    });
  }

  py::list map(const std::vector<size_t>& indices, const std::vector<py::dtype>& dtypes) const {
    if (file_->is_encrypted()) throw py::value_error("mmap: an encrypted file cannot be mapped");
    check_indices(indices, dtypes.size());
    const FileSource& file = file_->file();
    auto mapping = std::make_unique<Mapping>(file.fd(), file.nbytes(), file.path().c_str());
    std::byte* const data = mapping->data();
    const py::capsule owner(mapping.get(), [](void* held) { delete static_cast<Mapping*>(held); });
    mapping.release();

    py::list arrays(indices.size());
    for (size_t i = 0; i < indices.size(); ++i) {
      const Entry& entry = file_->entries()[indices[i]];
      if (entry.slices.size() == 1) {
        arrays[i] = make_array(entry, dtypes[i], data + entry.slices.front().begin, owner);
      } else {
        arrays[i] = read({indices[i]}, {dtypes[i]}, false, 0)[0];
      }
    }
    return arrays;
  }

 private:
  static py::tuple dims_tuple(const std::vector<int64_t>& dims) {
    py::tuple tuple(dims.size());
    for (size_t i = 0; i < dims.size(); ++i) tuple[i] = dims[i];
    return tuple;
  }

  void check_indices(const std::vector<size_t>& indices, size_t num_results) const {
    if (num_results != indices.size()) {
      throw py::value_error("something for each index is needed, and nothing else");
    }
    std::vector<bool> asked(file_->entries().size());
    for (const size_t index : indices) {
      if (index >= asked.size()) throw py::index_error("no such entry");
      if (asked[index]) throw py::value_error("an entry is asked for twice");
      asked[index] = true;
    }
  }

  static py::array make_array(const Entry& entry, const py::dtype& dtype, std::byte* data,
                              const py::capsule& owner) {
    if (entry.type == kStringType) {
      return py::array(py::dtype::of<uint8_t>(), {static_cast<py::ssize_t>(entry.nbytes)}, {}, data,
                       owner);
    }
    int64_t elements = 1;
    for (const int64_t dim : entry.dims) elements *= dim;
    if (static_cast<uint64_t>(elements * dtype.itemsize()) != entry.nbytes) {
      throw py::value_error("parameter '" + entry.name + "': the dtype's size is not its type's");
    }
    // NumPy bounds the number of dims, and what it says then is about the file.
    try {
      return py::array(dtype, entry.dims, {}, data, owner);
    } catch (py::error_already_set& refused) {
      if (!refused.matches(PyExc_ValueError)) throw;
      throw Error(ErrorKind::kFormat, "parameter '" + entry.name + "' has too many dims");
    }
  }

  std::shared_ptr<CheckpointFile> file_;
};

// ---- odds and ends

std::map<std::string, uint64_t> itemsizes() {
  std::map<std::string, uint64_t> sizes;
  for (const ElementType& type : tensor_types()) sizes.emplace(type.name, type.nbytes);
  return sizes;
}

// What NumPy calls the elements (unsigned integers where it has no name for them), and MindSpore's
// name.
std::optional<std::pair<std::string, std::string>> element_names(dlpack::DataType type) {
  const std::string bits = std::to_string(type.bits);
  const std::string bytes = std::to_string(type.bits / 8);
  if (type.lanes != 1 || type.bits % 8 != 0) return std::nullopt;
  switch (type.code) {
    case dlpack::kInt:
      return {{"i" + bytes, "Int" + bits}};
    case dlpack::kUint:
      return {{"u" + bytes, "UInt" + bits}};
    case dlpack::kFloat:
      return {{"f" + bytes, "Float" + bits}};
    case dlpack::kComplex:
      return {{"c" + bytes, "Complex" + bits}};
    case dlpack::kBool:
      return {{"?", "Bool"}};
    case dlpack::kBfloat:
      return {{"u2", "BFloat16"}};
    case dlpack::kFloat8E4M3FN:
      return {{"u1", "Float8E4M3FN"}};
    case dlpack::kFloat8E5M2:
      return {{"u1", "Float8E5M2"}};
    default:
      return std::nullopt;
  }
}

// A DLPack tensor that was taken from its capsule: `owner` keeps it.
struct TakenTensor {
  dlpack::Device device;
  std::byte* data;
  std::vector<py::ssize_t> shape;
  std::vector<py::ssize_t> stride_bytes;  // empty: C-contiguous
  std::string numpy_name;
  std::string type_name;
  py::capsule owner;
};

TakenTensor take_dlpack(const py::capsule& capsule, bool on_host) {
  if (!PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    throw py::buffer_error("not a fresh DLPack capsule");
  }
  auto* managed =
      static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  const dlpack::Tensor& tensor = managed->tensor;
  const int32_t type = tensor.device.type;
  const bool is_on_host =
      type == dlpack::kCpu || type == dlpack::kCudaHost || type == dlpack::kRocmHost;
  if (is_on_host != on_host) {
    throw py::buffer_error(on_host ? "a DLPack tensor that is not in host memory"
                                   : "a DLPack tensor that is in host memory");
  }
  const auto names = element_names(tensor.dtype);
  const uint64_t itemsize = tensor.dtype.bits / 8u;
  if (!names || element_nbytes(tensor_types(), names->second) != itemsize) {
    throw py::buffer_error("a DLPack tensor of an element type that cannot be saved");
  }
  TakenTensor taken;
  taken.device = tensor.device;
  taken.data = static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
  taken.shape.assign(tensor.shape, tensor.shape + tensor.ndim);
  if (tensor.strides != nullptr) {
    for (int32_t i = 0; i < tensor.ndim; ++i) {
      taken.stride_bytes.push_back(tensor.strides[i] * static_cast<py::ssize_t>(itemsize));
    }
  }
  std::tie(taken.numpy_name, taken.type_name) = *names;
  // From here on the owner has the tensor, and the capsule says that it is taken.
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  taken.owner = py::capsule(managed, [](void* held) {
    auto* owned = static_cast<dlpack::ManagedTensor*>(held);
    if (owned->deleter != nullptr) owned->deleter(owned);
  });
  return taken;
}

std::pair<py::array, std::string> from_dlpack(const py::capsule& capsule) {
  const TakenTensor taken = take_dlpack(capsule, true);
  return {py::array(py::dtype(taken.numpy_name), taken.shape, taken.stride_bytes, taken.data,
                    taken.owner),
          taken.type_name};
}

py::tuple device_from_dlpack(const py::capsule& capsule) {
  const TakenTensor taken = take_dlpack(capsule, false);
  const auto as_tuple = [](const std::vector<py::ssize_t>& values) {
    py::tuple tuple(values.size());
    for (size_t i = 0; i < values.size(); ++i) tuple[i] = values[i];
    return tuple;
  };
  const bool contiguous = taken.stride_bytes.empty();
  return py::make_tuple(reinterpret_cast<uintptr_t>(taken.data), taken.device.id, taken.type_name,
                        as_tuple(taken.shape),
                        contiguous ? py::object(py::none()) : as_tuple(taken.stride_bytes),
                        taken.owner);
}

// What numpy_name and type_name come from, back again.
dlpack::DataType dlpack_type(const std::string& type_name) {
  constexpr uint8_t kCodes[] = {dlpack::kInt,          dlpack::kUint,      dlpack::kFloat,
                                dlpack::kBfloat,       dlpack::kComplex,   dlpack::kBool,
                                dlpack::kFloat8E4M3FN, dlpack::kFloat8E5M2};
  constexpr uint8_t kBits[] = {8, 16, 32, 64, 128};
  for (const uint8_t code : kCodes) {
    for (const uint8_t bits : kBits) {
      const dlpack::DataType type{code, bits, 1};
      const auto names = element_names(type);
      if (names && names->second == type_name &&
          element_nbytes(tensor_types(), type_name) * 8 == bits) {
        return type;
      }
    }
  }
  throw py::buffer_error("DLPack has no element type " + type_name);
}

// A capsule over a device's memory, which it keeps alive.
py::capsule to_dlpack(const py::object& array, std::vector<int64_t> shape,
                      const std::string& type_name) {
  struct Exported {
    dlpack::ManagedTensor managed;
    std::vector<int64_t> shape;
    py::object array;
  };
  const auto* memory = py::cast<const DeviceArray*>(array);
  const dlpack::Device device{memory->dlpack_device_type(), memory->ordinal()};
  if (device.type == 0) throw py::buffer_error("DLPack does not know " + memory->device_name());
  auto exported = std::make_unique<Exported>();
  exported->shape = std::move(shape);
  exported->array = array;
  exported->managed.tensor = {reinterpret_cast<void*>(memory->pointer()),
                              device,
                              static_cast<int32_t>(exported->shape.size()),
                              dlpack_type(type_name),
                              exported->shape.data(),
                              nullptr,
                              0};
  exported->managed.manager = exported.get();
  exported->managed.deleter = [](dlpack::ManagedTensor* managed) {
    if (!Py_IsInitialized()) return;       // some are freed after the interpreter has ended
    const py::gil_scoped_acquire acquire;  // and some on threads of their framework
    delete static_cast<Exported*>(managed->manager);
  };
  py::capsule capsule(&exported->managed, "dltensor", [](PyObject* unused) {
    // Taken, it has another name, and whoever took it calls the deleter.
    if (!PyCapsule_IsValid(unused, "dltensor")) return;
    auto* managed = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(unused, "dltensor"));
    managed->deleter(managed);
  });
  exported.release();
  return capsule;
}

}  // namespace
}  // namespace mindckpt

PYBIND11_MODULE(_core, module) {
  using namespace mindckpt;
  using namespace py::literals;

  module.attr("__version__") = MINDCKPT_STRING(MINDCKPT_VERSION);
  py::register_local_exception_translator(&translate);

  py::class_<DeviceArray>(module, "DeviceArray")
      .def_static("find", &DeviceArray::find, "pointer"_a, "nbytes"_a, "stream"_a.none(true),
                  "owner"_a, "device"_a.none(true))
      .def_static("allocate", &DeviceArray::allocate, "device"_a, "nbytes"_a)
      .def("to_host", &DeviceArray::to_host)
      .def("assign", &DeviceArray::assign, "array"_a)
      .def("sync", &DeviceArray::sync)
      .def("refresh", &DeviceArray::refresh, "value"_a)
      .def_property_readonly("stream",
                             [](const DeviceArray& array) -> std::optional<uintptr_t> {
                               const auto stream = array.stream();
                               if (!stream) return std::nullopt;
                               return reinterpret_cast<uintptr_t>(*stream);
                             })
      .def_property_readonly("device", &DeviceArray::device_name)
      .def_property_readonly("ordinal", &DeviceArray::ordinal)
      .def_property_readonly("dlpack_device_type", &DeviceArray::dlpack_device_type)
      .def_property_readonly("pointer", &DeviceArray::pointer)
      .def_property_readonly("nbytes", &DeviceArray::nbytes)
      .def_property_readonly("copy_alignment", &DeviceArray::copy_alignment);
  module.def("device_record", &device_record, "name"_a, "value"_a);
  module.def("backends", &backends);
  module.def("add_backend", &add_backend, "capsule"_a, "origin"_a);
  module.def("load_backend", &load_backend, "path"_a);
  module.def(
      "backend_of_dlpack_type",
      [](int32_t type) { return runtime().devices.name_of_dlpack_type(type); }, "type"_a);
  module.def("check_device", [](const std::string& name) { DeviceArray::named(name); }, "name"_a);
  module.def("staging_stats", &staging_stats);
  module.def(
      "trim_staging", [] { runtime().staging.trim(); }, py::call_guard<py::gil_scoped_release>());
  module.def(
      "set_staging_limit", [](uint64_t nbytes) { runtime().staging.set_limit(nbytes); }, "nbytes"_a,
      py::call_guard<py::gil_scoped_release>());

  py::class_<PyJob>(module, "Job")
      .def("start", &PyJob::start, "after"_a.none(true))
      .def("started", &PyJob::started)
      .def("wait", &PyJob::wait, "timeout"_a = py::none())
      .def("done", &PyJob::done)
      .def("cancel", &PyJob::cancel)
      .def("progress", &PyJob::progress)
      .def("wait_for", &PyJob::wait_for, "state"_a, "timeout"_a = py::none())
      .def("settled", &PyJob::settled, "state"_a)
      .def("reached", &PyJob::reached, "state"_a)
      .def("is_synchronous", &PyJob::is_synchronous)
      .def("fence", &PyJob::fence, "stream"_a, "device"_a.none(true), "timeout"_a)
      .def("release_arrays", &PyJob::release_arrays)
      .def("trace", &PyJob::trace)
      .def("result", &PyJob::result);
  module.def("prepare_save", &prepare_save, "records"_a, "path"_a, py::kw_only(), "crc"_a,
             "durable"_a, "key"_a.none(true), "mode"_a, "num_threads"_a, "block_bytes"_a,
             "snapshot"_a, "stream"_a.none(true), "trace"_a);

  py::class_<PyReader>(module, "Reader")
      .def(py::init<const py::str&, const std::optional<py::bytes>&, const std::string&>(),
           "path"_a, "key"_a.none(true), "mode"_a)
      .def_property_readonly("entries", &PyReader::entries)
      .def_property_readonly("has_crc", &PyReader::has_crc)
      .def_property_readonly("sealed", &PyReader::is_sealed)
      .def("read", &PyReader::read, "indices"_a, "dtypes"_a, py::kw_only(), "check_crc"_a,
           "num_threads"_a)
      .def("read_into", &PyReader::read_into, "indices"_a, "arrays"_a, py::kw_only(), "check_crc"_a,
           "num_threads"_a)
      .def("map", &PyReader::map, "indices"_a, "dtypes"_a);

  module.def("itemsizes", &itemsizes);
  module.def("from_dlpack", &from_dlpack, "capsule"_a);
  module.def("to_dlpack", &to_dlpack, "array"_a, "shape"_a, "type"_a);
  module.def("device_from_dlpack", &device_from_dlpack, "capsule"_a);
  module.def("sm4_provider", [] { return std::string(sm4_provider()); });
}
