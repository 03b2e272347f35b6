#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/process.h"
#include "engine/job.h"
#include "python/arguments.h"
#include "python/bind.h"
#include "python/device_array.h"
#include "python/gil.h"
#include "python/interrupt.h"
#include "python/records.h"
#include "python/runtime.h"
#include "storage/leftovers.h"

namespace py = pybind11;

namespace mindckpt {
namespace {

py::dict stats_dict(const std::string& path, const SaveStats& stats) {
  using namespace py::literals;
  return py::dict(
      "path"_a = decoded_path(path), "nbytes"_a = stats.nbytes,
      "payload_nbytes"_a = stats.payload_nbytes, "records"_a = stats.records,
      "blocks"_a = stats.blocks, "num_threads"_a = stats.num_threads, "durable"_a = stats.durable,
      "snapshot"_a = stats.snapshot, "snapshot_reason"_a = stats.snapshot_reason,
      "in_call_reason"_a = "", "seconds"_a = stats.seconds,
      "snapshot_seconds"_a = stats.snapshot_seconds, "staged_seconds"_a = stats.staged_seconds,
      "written_seconds"_a = stats.written_seconds, "durable_seconds"_a = stats.durable_seconds,
      "copy_seconds"_a = stats.copy_seconds, "fill_seconds"_a = stats.fill_seconds,
      "checksum_seconds"_a = stats.checksum_seconds, "seal_seconds"_a = stats.seal_seconds,
      "write_seconds"_a = stats.write_seconds, "publish_seconds"_a = stats.publish_seconds,
      "write_way"_a = stats.write_way, "reused"_a = stats.reused,
      "reuse_reason"_a = stats.reuse_reason, "refused"_a = stats.refused);
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
    {
      const GilRelease release;
      // A later job that waits for this one keeps the SaveJob, but not the arrays.
      if (started_) {
        job_->cancel();
        job_->wait(std::nullopt);
      }
      job_.reset();
    }
    drop_arrays();
  }
  PyJob(const PyJob&) = delete;
  PyJob& operator=(const PyJob&) = delete;

  // False where no thread can be had for it: then run_here() is to be called.
  bool start(const PyJob* after) {
    if (started_) throw std::runtime_error("the job was started already");
    const GilRelease release;
    const bool runs = job_->start(after != nullptr ? after->job_ : nullptr);
    started_ = true;
    return runs;
  }
  // Calls `look` ten times a second; what it raises, or a signal's handler, cancels the save and is
  // thrown at the end. How the save ends is told by result().
  void run_here(const py::function& look) {
    check_started();
    const std::shared_ptr<SaveJob> job = job_;
    Interrupt interrupt;
    const pid_t process = process_id();
    {
      GilRelease release;
      job->run_here([&] {
        release.with_gil([&] {
          if (interrupt.look(look) && !job->is_foreign()) job->cancel();
          leave_if_forked(process, interrupt);
        });
      });
    }
    interrupt.raise();
  }

  // A thread that waits at the end of the interpreter never comes back, and the last to keep the
  // job may be gone by then: so whoever waits keeps it.
  bool wait(std::optional<double> timeout) const {
    check_started();
    const std::shared_ptr<SaveJob> job = job_;
    const GilRelease release;
    return job->wait(deadline(timeout));
  }
  bool wait_for(const std::string& name, std::optional<double> timeout) const {
    check_started();
    const SaveState state = parse_state(name);
    const std::shared_ptr<SaveJob> job = job_;
    const GilRelease release;
    return job->wait(state, deadline(timeout));
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
    const Device* device = device_name ? &named_device(*device_name) : device_;
    if (device == nullptr) throw py::value_error("the save is from no device: no stream can wait");
    const std::shared_ptr<SaveJob> job = job_;
    const GilRelease release;
    return job->fence({device, reinterpret_cast<void*>(stream)}, *deadline(timeout));
  }
  // What is not read any more need not be kept.
  void release_arrays() {
    if (job_->settled(SaveState::kStaged)) drop_arrays();
  }
  bool started() const { return started_; }
  bool done() const { return job_->done(); }
  void cancel() const {
    const GilRelease release;  // the end of one that nobody runs may wait for devices
    job_->cancel();
  }
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
  // What goes with an array may be Python code.
  void drop_arrays() {
    PyObject* const dropped = arrays_.release().ptr();
    call_or_park([&] { Py_XDECREF(dropped); });
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

std::unique_ptr<PyJob> prepare_save(const py::sequence& records, const py::function& resolve,
                                    const py::str& path, bool crc, bool durable,
                                    const std::optional<py::bytes>& key, const std::string& mode,
                                    int num_threads, uint64_t block_bytes,
                                    const std::string& snapshot, std::optional<uintptr_t> stream,
                                    bool trace, const std::optional<py::str>& reuse) {
  if (num_threads < 0) throw py::value_error("num_threads must not be negative");
  if (block_bytes > kMaxBlockBytes) throw py::value_error("block_bytes must be at most 64 MiB");
  SaveRequest request;
  request.path = file_system_path(path);
  request.crc = crc;
  request.durable = durable;
  if (reuse) request.reuse = file_system_path(*reuse);
  request.cipher = make_cipher(key, mode);
  request.num_threads = num_threads;
  request.block_bytes = block_bytes;
  request.snapshot = parse_snapshot(snapshot);
  request.trace = trace;
  request.staging = &runtime().staging;
  Payloads payloads = read_records(records, resolve, stream);
  request.tensors = std::move(payloads.tensors);
  request.producers = std::move(payloads.producers);
  request.has_unknown_producer = payloads.has_unknown_producer;
  request.synced_devices = std::move(payloads.synced_devices);

  const std::string resolved = request.path;
  // Host memory that was copied need not be kept; device memory may still be read.
  const bool copied = payloads.first_device == nullptr &&
                      request.snapshot != SnapshotPolicy::kNone &&
                      request.snapshot != SnapshotPolicy::kLazy;
  std::shared_ptr<SaveJob> job;
  {
    const GilRelease release;
    job = std::make_shared<SaveJob>(std::move(request));
  }
  return std::make_unique<PyJob>(std::move(job), resolved,
                                 copied ? py::object(py::none()) : payloads.kept,
                                 payloads.first_device);
}

py::list remove_leftovers_in(const py::str& folder) {
  const std::string path = file_system_path(folder);
  std::vector<std::string> names;
  {
    const GilRelease release;
    names = remove_leftovers(path);
  }
  py::list removed;
  for (const std::string& name : names) removed.append(decoded_path(name));
  return removed;
}

}  // namespace

void bind_saving(py::module_& module) {
  using namespace py::literals;
  py::class_<PyJob>(module, "Job")
      .def("start", &PyJob::start, "after"_a.none(true))
      .def("run_here", &PyJob::run_here, "look"_a)
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
  module.def("prepare_save", &prepare_save, "records"_a, "resolve"_a, "path"_a, py::kw_only(),
             "crc"_a, "durable"_a, "key"_a.none(true), "mode"_a, "num_threads"_a, "block_bytes"_a,
             "snapshot"_a, "stream"_a.none(true), "trace"_a, "reuse"_a.none(true) = py::none());
  module.def("remove_leftovers", &remove_leftovers_in, "folder"_a);
}

}  // namespace mindckpt
