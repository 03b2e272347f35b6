// The Python face of the engine: the one file that knows pybind11, NumPy and the GIL.
// Its interface is documented in mindckpt/_core.pyi.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/memory.h"
#include "base/workers.h"
#include "cipher/cipher.h"
#include "cipher/sm4.h"
#include "engine/checkpoint_file.h"
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
    throw py::type_error("parameter '" + tensor.name + "': a payload is an ndarray or bytes");
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
      "seconds"_a = stats.seconds, "snapshot_seconds"_a = stats.snapshot_seconds,
      "fill_seconds"_a = stats.fill_seconds, "checksum_seconds"_a = stats.checksum_seconds,
      "seal_seconds"_a = stats.seal_seconds, "write_seconds"_a = stats.write_seconds,
      "publish_seconds"_a = stats.publish_seconds);
}

// A SaveJob with what its thread reads: the arrays live until it has ended.
class PyJob {
 public:
  PyJob(std::shared_ptr<SaveJob> job, std::string path, py::object arrays)
      : job_(std::move(job)), path_(std::move(path)), arrays_(std::move(arrays)) {}
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
    if (!started_) throw std::runtime_error("the job was not started");
    const py::gil_scoped_release release;
    if (!timeout) return job_->wait(std::nullopt);
    // Clamped, because a clock's range is: a day, or a year, is as good as for ever.
    const double seconds = std::clamp(*timeout, 0.0, 3e7);
    return job_->wait(Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                         std::chrono::duration<double>(seconds)));
  }
  bool started() const { return started_; }
  bool done() const { return job_->done(); }
  void cancel() const { job_->cancel(); }
  std::pair<uint64_t, uint64_t> progress() const {
    return {job_->written_nbytes(), job_->file_nbytes()};
  }
  py::dict result() const { return stats_dict(path_, job_->result()); }

 private:
  std::shared_ptr<SaveJob> job_;
  std::string path_;
  py::object arrays_;
  bool started_ = false;
};

std::unique_ptr<PyJob> prepare_save(const py::sequence& records, const py::str& path, bool crc,
                                    bool durable, const std::optional<py::bytes>& key,
                                    const std::string& mode, int num_threads, uint64_t block_bytes,
                                    bool snapshot) {
  if (num_threads < 0) throw py::value_error("num_threads must not be negative");
  if (block_bytes > kMaxBlockBytes) throw py::value_error("block_bytes must be at most 64 MiB");
  SaveRequest request;
  request.path = file_system_path(path);
  request.crc = crc;
  request.durable = durable;
  request.cipher = make_cipher(key, mode);
  request.num_threads = num_threads;
  request.block_bytes = block_bytes;
  request.snapshot = snapshot;
  // Taken once: a sequence of the caller's might answer differently the second time.
  const py::list kept(records);
  request.tensors.reserve(kept.size());
  for (const py::handle record : kept) request.tensors.push_back(tensor_ref(record));

  const std::string resolved = request.path;
  std::shared_ptr<SaveJob> job;
  {
    const py::gil_scoped_release release;
    job = std::make_shared<SaveJob>(std::move(request));
  }
  return std::make_unique<PyJob>(std::move(job), resolved,
                                 snapshot ? py::object(py::none()) : py::object(kept));
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
    check_request(indices, dtypes);
    ArrayMemory memory;
    std::vector<Target> targets;
    targets.reserve(indices.size());
    py::list arrays(indices.size());
    for (size_t i = 0; i < indices.size(); ++i) {
      const Entry& entry = file_->entries()[indices[i]];
      const ArrayMemory::Place place = memory.take(entry.nbytes);
      arrays[i] = make_array(entry, dtypes[i], place.data, place.owner);
      targets.push_back({indices[i], place.data});
    }
    std::ranges::sort(targets, {}, &Target::entry);
    run_interruptibly(
        [&](const CancelFlag& cancel) { file_->read(targets, check_crc, num_threads, cancel); });
    return arrays;
  }

  py::list map(const std::vector<size_t>& indices, const std::vector<py::dtype>& dtypes) const {
    if (file_->is_encrypted()) throw py::value_error("mmap: an encrypted file cannot be mapped");
    check_request(indices, dtypes);
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

  void check_request(const std::vector<size_t>& indices,
                     const std::vector<py::dtype>& dtypes) const {
    if (dtypes.size() != indices.size()) throw py::value_error("a dtype for each index is needed");
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

std::pair<py::array, std::string> from_dlpack(py::capsule capsule) {
  if (!PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    throw py::buffer_error("not a fresh DLPack capsule");
  }
  auto* managed =
      static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  const dlpack::Tensor& tensor = managed->tensor;
  const int32_t device = tensor.device.type;
  if (device != dlpack::kCpu && device != dlpack::kCudaHost && device != dlpack::kRocmHost) {
    throw py::buffer_error("a DLPack tensor that is not in host memory");
  }
  const auto names = element_names(tensor.dtype);
  if (!names || element_nbytes(tensor_types(), names->second) != tensor.dtype.bits / 8u) {
    throw py::buffer_error("a DLPack tensor of an element type that cannot be saved");
  }
  const py::dtype dtype(names->first);
  std::vector<py::ssize_t> shape(tensor.shape, tensor.shape + tensor.ndim);
  std::vector<py::ssize_t> strides;
  if (tensor.strides != nullptr) {
    for (int32_t i = 0; i < tensor.ndim; ++i)
      strides.push_back(tensor.strides[i] * dtype.itemsize());
  }
  // From here on the view owns the tensor, and the capsule says that it is taken.
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  const py::capsule owner(managed, [](void* held) {
    auto* taken = static_cast<dlpack::ManagedTensor*>(held);
    if (taken->deleter != nullptr) taken->deleter(taken);
  });
  auto* data = static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
  return {py::array(dtype, shape, strides, data, owner), names->second};
}

}  // namespace
}  // namespace mindckpt

PYBIND11_MODULE(_core, module) {
  using namespace mindckpt;
  using namespace py::literals;

  module.attr("__version__") = MINDCKPT_STRING(MINDCKPT_VERSION);
  py::register_local_exception_translator(&translate);

  py::class_<PyJob>(module, "Job")
      .def("start", &PyJob::start, "after"_a.none(true))
      .def("started", &PyJob::started)
      .def("wait", &PyJob::wait, "timeout"_a = py::none())
      .def("done", &PyJob::done)
      .def("cancel", &PyJob::cancel)
      .def("progress", &PyJob::progress)
      .def("result", &PyJob::result);
  module.def("prepare_save", &prepare_save, "records"_a, "path"_a, py::kw_only(), "crc"_a,
             "durable"_a, "key"_a.none(true), "mode"_a, "num_threads"_a, "block_bytes"_a,
             "snapshot"_a);

  py::class_<PyReader>(module, "Reader")
      .def(py::init<const py::str&, const std::optional<py::bytes>&, const std::string&>(),
           "path"_a, "key"_a.none(true), "mode"_a)
      .def_property_readonly("entries", &PyReader::entries)
      .def_property_readonly("has_crc", &PyReader::has_crc)
      .def_property_readonly("sealed", &PyReader::is_sealed)
      .def("read", &PyReader::read, "indices"_a, "dtypes"_a, py::kw_only(), "check_crc"_a,
           "num_threads"_a)
      .def("map", &PyReader::map, "indices"_a, "dtypes"_a);

  module.def("itemsizes", &itemsizes);
  module.def("from_dlpack", &from_dlpack, "capsule"_a);
  module.def("sm4_provider", [] { return std::string(sm4_provider()); });
}
