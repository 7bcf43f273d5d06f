// SPDX-License-Identifier: Apache-2.0
//
// The ACL runtime: the account of device memory and streams that the processes of a machine share.
#include "acl_memory.h"
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <new>
#include <string>

namespace acl_sim {

namespace {

// One per machine, in POSIX shared memory. A slot belongs to a process until that
// process has ended, however it ended: the next one that looks gives the share back.
struct Slot {
  int32_t pid;
  int32_t unused;
  uint64_t start_time;  // of the process, in clock ticks: tells a reused pid
  uint64_t used[kMaxDevices];
  uint32_t streams[kMaxDevices];
};

constexpr int kSlots = 1024;

struct Ledger {
  Slot slots[kSlots];
};

class Account {
 public:
  // Take `bytes` of a physical device; false where that much is not free.
  bool take(int physical, size_t bytes) {
    std::lock_guard<std::mutex> guard(mutex_);
    Locked locked(*this);
    if (!locked.ok) return take_alone(physical, bytes);
    if (total(physical) + bytes > config().memory) {
      reap();
      if (total(physical) + bytes > config().memory) return false;
    }
    own()->used[physical] += bytes;
    return true;
  }

  void give(int physical, size_t bytes) {
    std::lock_guard<std::mutex> guard(mutex_);
    Locked locked(*this);
    if (!locked.ok) {
      alone_[physical] -= std::min(bytes, alone_[physical]);
      return;
    }
    uint64_t &used = own()->used[physical];
    used -= std::min<uint64_t>(bytes, used);
  }

  size_t used(int physical) {
    std::lock_guard<std::mutex> guard(mutex_);
    Locked locked(*this);
    if (!locked.ok) return alone_[physical];
    reap();
    return total(physical);
  }

  bool take_streams(int physical, uint32_t count) {
    std::lock_guard<std::mutex> guard(mutex_);
    Locked locked(*this);
    if (!locked.ok) {
      if (alone_streams_[physical] + count > kStreams) return false;
      alone_streams_[physical] += count;
      return true;
    }
    if (streams(physical) + count > kStreams) {
      reap();
      if (streams(physical) + count > kStreams) return false;
    }
    own()->streams[physical] += count;
    return true;
  }

  void give_streams(int physical, uint32_t count) {
    std::lock_guard<std::mutex> guard(mutex_);
    Locked locked(*this);
    uint32_t &used = locked.ok ? own()->streams[physical] : alone_streams_[physical];
    used -= std::min(count, used);
  }

  uint32_t used_streams(int physical) {
    std::lock_guard<std::mutex> guard(mutex_);
    Locked locked(*this);
    return locked.ok ? streams(physical) : alone_streams_[physical];
  }

  // A forked child shares the parent's file lock: it must open the file anew.
  void after_fork() {
    new (&mutex_) std::mutex;
    if (fd_ >= 0) close(fd_);
    if (ledger_) munmap(ledger_, sizeof(Ledger));
    fd_ = -1;
    ledger_ = nullptr;
    slot_ = -1;
  }

  void leave() {
    std::lock_guard<std::mutex> guard(mutex_);
    if (slot_ < 0) return;
    Locked locked(*this);
    if (locked.ok && ledger_->slots[slot_].pid == getpid()) memset(&ledger_->slots[slot_], 0, sizeof(Slot));
    slot_ = -1;
  }

 private:
  struct Locked {
    explicit Locked(Account &a) : account(a), ok(a.open()) {
      if (ok) while (flock(account.fd_, LOCK_EX) != 0 && errno == EINTR) {}
    }
    ~Locked() {
      if (ok) flock(account.fd_, LOCK_UN);
    }
    Account &account;
    bool ok;
  };

  bool open() {
    if (ledger_) return true;
    std::string name = "/ascend_sim." + std::to_string(getuid()) + "." + config().machine + ".account";
    fd_ = shm_open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd_ < 0 || ftruncate(fd_, sizeof(Ledger)) != 0) return no_ledger(name);
    void *p = mmap(nullptr, sizeof(Ledger), PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    if (p == MAP_FAILED) return no_ledger(name);
    ledger_ = static_cast<Ledger *>(p);
    return true;
  }

  bool no_ledger(const std::string &name) {
    if (!told_) {
      fprintf(stderr, "ascend simulator: cannot share the memory account %s (%s): processes that share "
              "a device will not see each other's memory\n", name.c_str(), strerror(errno));
      told_ = true;
    }
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
    return false;
  }

  bool take_alone(int physical, size_t bytes) {
    if (alone_[physical] + bytes > config().memory) return false;
    alone_[physical] += bytes;
    return true;
  }

  Slot *own() {
    if (slot_ >= 0) return &ledger_->slots[slot_];
    for (int pass = 0; pass < 2; ++pass) {
      for (int i = 0; i < kSlots; ++i) {
        if (ledger_->slots[i].pid != 0 && ledger_->slots[i].pid != getpid()) continue;
        memset(&ledger_->slots[i], 0, sizeof(Slot));
        ledger_->slots[i].pid = getpid();
        ledger_->slots[i].start_time = process_start_time(getpid());
        slot_ = i;
        return &ledger_->slots[i];
      }
      reap();
    }
    fprintf(stderr, "ascend simulator: more than %d processes use one machine\n", kSlots);
    abort();
  }

  uint64_t total(int physical) const {
    uint64_t sum = 0;
    for (const Slot &s : ledger_->slots)
      if (s.pid) sum += s.used[physical];
    return sum;
  }

  uint32_t streams(int physical) const {
    uint32_t sum = 0;
    for (const Slot &s : ledger_->slots)
      if (s.pid) sum += s.streams[physical];
    return sum;
  }

  void reap() {
    for (Slot &s : ledger_->slots) {
      if (s.pid == 0 || s.pid == getpid()) continue;
      if (process_start_time(s.pid) != s.start_time) memset(&s, 0, sizeof s);
    }
  }

  std::mutex mutex_;
  int fd_ = -1;
  Ledger *ledger_ = nullptr;
  int slot_ = -1;
  bool told_ = false;
  size_t alone_[kMaxDevices] = {};
  uint32_t alone_streams_[kMaxDevices] = {};
};

Account &account() {
  static Account *a = [] {
    Account *made = new Account;  // never destroyed: used by destructors of others
    pthread_atfork(nullptr, nullptr, [] { account().after_fork(); });
    atexit([] { account().leave(); });
    return made;
  }();
  return *a;
}

}  // namespace

bool take_memory(int physical, size_t bytes) { return account().take(physical, bytes); }
void give_memory(int physical, size_t bytes) { account().give(physical, bytes); }
size_t used_memory(int physical) { return account().used(physical); }

bool take_streams(int physical, uint32_t count) { return account().take_streams(physical, count); }
void give_streams(int physical, uint32_t count) { account().give_streams(physical, count); }
uint32_t used_streams(int physical) { return account().used_streams(physical); }

bool counts_overhead(size_t bytes) {
  if (config().overheads >= 0) return config().overheads > 0;
  return bytes <= config().memory / 32;
}

}  // namespace acl_sim

using namespace acl_sim;

int ascend_sim_take_overhead(int device, size_t bytes, const char *what) {
  if (!valid_device(device) || !counts_overhead(bytes)) return 0;
  if (take_memory(config().physical[device], bytes)) return 1;
  ascend_sim_error(ACL_ERROR_RT_MEMORY_ALLOCATION,
                   "out of memory on device %d: %s takes %zu bytes, %zu of %zu are in use", device, what, bytes,
                   used_memory(config().physical[device]), config().memory);
  return -1;
}

void ascend_sim_give_overhead(int device, size_t bytes) {
  if (valid_device(device)) give_memory(config().physical[device], bytes);
}
