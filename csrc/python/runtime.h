#pragma once

#include "device/registry.h"
#include "device/staging.h"

namespace mindckpt {

// What this process knows of devices. Never destroyed: threads may be using it when the interpreter
// ends, and drivers take back what a process leaves.
struct Runtime {
  DeviceRegistry devices;
  StagingPools staging;
};

Runtime& runtime();

}  // namespace mindckpt
