#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/text.h"
#include "base/workers.h"
#include "engine/checkpoint_file.h"
#include "image/element_type.h"
#include "python/arguments.h"
#include "python/array_memory.h"
#include "python/bind.h"
#include "python/device_array.h"
#include "python/gil.h"
#include "python/interrupt.h"
#include "python/runtime.h"
#include "storage/mapping.h"

namespace py = pybind11;

namespace mindckpt {
namespace {

// Runs `work(cancel)` without the GIL, on another thread while this one looks for signals; on this
// one, which looks up from it, where no thread can be had.
template <typename Work>
void run_interruptibly(const Work& work) {
  CancelFlag cancel{false};
  std::packaged_task<void()> task([&] { work(cancel); });
  std::future<void> running = task.get_future();
  Interrupt interrupt;
  const pid_t process = process_id();
  {
    GilRelease release;
    const auto look = [&] {
      release.with_gil([&] {
        if (interrupt.look()) cancel.store(true, std::memory_order_relaxed);
        leave_if_forked(process, interrupt);
      });
    };
    const std::optional<std::jthread> thread = start_thread([&] { task(); });
    if (!thread) {
      const LookUp looking(look);
      task();
    }
    while (running.wait_for(std::chrono::milliseconds(100)) != std::future_status::ready) look();
  }
  interrupt.raise();
  running.get();
}

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

int threads_of(int num_threads) {
  if (num_threads < 0) throw py::value_error("num_threads must not be negative");
  return num_threads == 0 ? default_num_threads() : num_threads;
}

class PyReader {
 public:
  PyReader(const py::str& path, const std::optional<py::bytes>& key, const std::string& mode) {
    const std::string resolved = file_system_path(path);
    const std::shared_ptr<const Cipher> cipher = make_cipher(key, mode);
    // All records of a file are visited, and every block of an encrypted one may have to be.
    run_interruptibly([&](const CancelFlag& cancel) {
      file_ = std::make_shared<CheckpointFile>(resolved, cipher, &cancel);
    });
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
    const int threads = threads_of(num_threads);
    check_indices(indices, dtypes.size());
    std::vector<uint64_t> sizes;
    sizes.reserve(indices.size());
    for (const size_t index : indices) sizes.push_back(file_->entries()[index].nbytes);
    ArrayMemory memory(sizes);
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
      file_->read(targets, check_crc, {threads, cancel, nullptr, {}});
    });
    return arrays;
  }

  // The same into memory of devices, all of one backend whose copies take any alignment.
  void read_into(const std::vector<size_t>& indices, const std::vector<DeviceArray*>& arrays,
                 bool check_crc, int num_threads) const {
    const int threads = threads_of(num_threads);
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
      file_->read(targets, check_crc, {threads, cancel, &runtime().staging, producers});
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
    std::vector<size_t> places;  // of what does not lie together in the file, and is read
    std::vector<size_t> to_read;
    std::vector<py::dtype> to_read_as;
    for (size_t i = 0; i < indices.size(); ++i) {
      const Entry& entry = file_->entries()[indices[i]];
      if (entry.slices.size() == 1) {
        arrays[i] = make_array(entry, dtypes[i], data + entry.slices.front().begin, owner);
      } else {
        places.push_back(i);
        to_read.push_back(indices[i]);
        to_read_as.push_back(dtypes[i]);
      }
    }
    if (places.empty()) return arrays;
    const py::list read_arrays = read(to_read, to_read_as, false, 0);
    for (size_t i = 0; i < places.size(); ++i) arrays[places[i]] = read_arrays[i];
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
      throw py::value_error("parameter " + quoted(entry.name) +
                            ": the dtype's size is not its type's");
    }
    // NumPy bounds the number of dims, and what it says then is about the file.
    try {
      return py::array(dtype, entry.dims, {}, data, owner);
    } catch (py::error_already_set& refused) {
      if (!refused.matches(PyExc_ValueError)) throw;
      throw Error(ErrorKind::kFormat, "parameter " + quoted(entry.name) + " has too many dims");
    }
  }

  std::shared_ptr<CheckpointFile> file_;
};

}  // namespace

void bind_loading(py::module_& module) {
  using namespace py::literals;
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
}

}  // namespace mindckpt
