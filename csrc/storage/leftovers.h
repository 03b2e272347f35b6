#pragma once

#include <string>
#include <vector>

#include "storage/folder.h"

namespace mindckpt {

// The temporary files of saves, `.<name>.<16 hex digits>.tmp`, and how those of killed processes
// are told from those that are being written.
//
// A writer holds a lock (flock) on its file as long as it lives, so one that nobody has locked is a
// leftover: a process number could mean another process. (With the last process that has the
// descriptor: a forked child that lives on keeps a leftover.) But some file systems of networks,
// and most in user space, keep locks to one mount of one machine. So the first eight digits say how
// far a lock reaches that its writer took: to the kernel as booted then, and the mount. Where they
// are this process's own, the lock tells all. Any other file may be written on another machine, or
// be a stranger's that happens to have such a name: it is a leftover only if it looks like one (of
// this user, mode 0600 or 0400) and nobody has written to it for an hour.

// A new name for a temporary file of `name`; one for a file without a lock says of none how far it
// reaches. A long one is cut: a name has at most 255 bytes.
std::string temporary_name(const Folder& folder, const std::string& name, bool is_locked = true);

// Removes the leftovers in the folder that a save to `name` is made in. Those of that very name, on
// a file system of this machine, are told by the lock alone: nobody else has a use for the name.
// Failing to is no error, as the save goes on.
void remove_leftovers_of_saves(const Folder& folder, const std::string& name) noexcept;

// Removes the leftovers in the folder `path` and returns their names, sorted. Throws Error(kIo)
// when the folder can't be listed and, once all others are gone, when one can't be removed.
std::vector<std::string> remove_leftovers(const std::string& path);

}  // namespace mindckpt
