#include "storage/folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace mindckpt {

namespace {

int open_folder(const std::string& path, int flags) {
  int fd = -1;
  do {
    fd = ::open(path.c_str(), flags | O_DIRECTORY | O_CLOEXEC);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

}  // namespace

Folder::Folder(const std::string& path)
    : path_(path), fd_(open_folder(path, O_RDONLY)), is_readable_(fd_.is_open()) {
  if (!is_readable_ && (errno == EACCES || errno == EPERM)) {
    fd_ = FileDescriptor(open_folder(path, O_PATH));
  }
  if (!fd_.is_open()) throw_errno("open", path);
}

int Folder::sync(int file, Refusals& refused) const {
  const int error = is_readable_ ? sync_fd(::fsync, fd_.get()) : EACCES;
  if (error == 0) return 0;
  // EBADF comes from file systems that don't know their folders as files. After any other failure
  // a second sync would succeed and prove nothing: the kernel reports each one once.
  const bool has_no_sync = !is_readable_ || error == EBADF || says_not_supported(error);
  if (!has_no_sync || !is_on_local_file_system(file) || sync_fd(::syncfs, file) != 0) return error;
  refused.add(is_readable_ ? "fsync of the folder" : "open the folder to read", error);
  return 0;
}

}  // namespace mindckpt
