// SPDX-License-Identifier: Apache-2.0
//
// What every part of the ACL runtime shares: the configuration, the last error of a thread,
// the device that it has chosen, and the lock of the state.
//
// Signatures and error codes are those of the ACL interface (acl_rt.h and
// rt_error_codes.h, which torch_npu wheels carry); enumerations are plain ints here.
// torch_npu is the only caller in mind.
#ifndef ASCEND_SIM_ACL_PROCESS_H_
#define ASCEND_SIM_ACL_PROCESS_H_

#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <mutex>
#include <string>

#include "ascend_sim.h"

#define ACL_API extern "C" ASCEND_SIM_API

namespace acl_sim {

constexpr int kMaxDevices = 64;
constexpr size_t kDefaultMemory = size_t{4} << 30;

// Of this thread, for aclGetRecentErrMsg and aclrtGetLastError; ascend_sim_error sets both.
extern thread_local std::string last_message;
extern thread_local int last_error;

struct Config {
  int count = 0;               // devices that the program sees
  int physical[kMaxDevices];   // their numbers on the machine
  size_t memory = kDefaultMemory;
  std::string soc = "Ascend910B1";
  std::string cann = "8.5.0";
  std::string machine = "default";
  int overheads = -1;          // whether they count: 0, 1, or by their size
  std::string error;           // what is wrong with the environment, if anything
};

const Config &config();
// Success, or the error of an environment that configures no machine, which is printed too.
int need_configuration();
bool valid_device(int device);

// Over memory, streams, events and graphs.
extern std::recursive_mutex state_mutex;
using Guard = std::lock_guard<std::recursive_mutex>;

extern int contexts[kMaxDevices];  // their addresses are the context handles
// Device of a thread that sets none; aclInit's configuration may name one.
extern std::atomic<int> default_device;
// The device of this thread, or the error that it has none.
int need_device(int *device);

}  // namespace acl_sim

#endif  // ASCEND_SIM_ACL_PROCESS_H_
