// SPDX-License-Identifier: Apache-2.0
//
// Host memory that nobody may use yet; see acl_guard.h.
#include "acl_defer.h"
#include "acl_guard.h"
#include "acl_memory.h"

#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <map>

namespace acl_sim {

namespace {

std::map<uintptr_t, int> &pages = *new std::map<uintptr_t, int>;  // guarded, by how many ranges
void (*tell)(const char *, bool, bool) = nullptr;
struct sigaction previous;

uintptr_t page_of(const void *p) { return reinterpret_cast<uintptr_t>(p) / kPage * kPage; }

bool wrote([[maybe_unused]] void *context) {
#if defined(__x86_64__)
  return static_cast<ucontext_t *>(context)->uc_mcontext.gregs[REG_ERR] & 2;
#else
  return false;
#endif
}

// Whether this thread is one of Python's: others, such as those of a parallel kernel, may have
// been started by a thread that holds Python's lock and waits for them.
bool of_python() {
  using State = void *(*)();
  static const State state = reinterpret_cast<State>(dlsym(RTLD_DEFAULT, "PyGILState_GetThisThreadState"));
  return state && state();
}

void on_fault(int, siginfo_t *info, void *context) {
  const int kept = errno;
  const char *p = static_cast<const char *>(info->si_addr);
  bool ours = false;
  if (info->si_code == SEGV_ACCERR) {
    Guard lock(state_mutex);
    if (pages.erase(page_of(p))) {
      mprotect(reinterpret_cast<void *>(page_of(p)), kPage, PROT_READ | PROT_WRITE);
      ours = true;
    }
  }
  if (!ours && info->si_code == SEGV_ACCERR && defer_fault(p)) {
    errno = kept;
    return;
  }
  if (ours) {
    tell(p, wrote(context), of_python());
  } else if (!ascend_sim_is_pinned(p)) {
    // Not ours; else another thread has just given the page back. The fault comes again.
    sigaction(SIGSEGV, &previous, nullptr);
  }
  errno = kept;
}

// Whoever took the signal since, such as Python's faulthandler, comes after us.
void listen() {
  struct sigaction now;
  if (sigaction(SIGSEGV, nullptr, &now) != 0) return;
  if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_fault) return;
  previous = now;
  struct sigaction mine = {};
  mine.sa_sigaction = on_fault;
  mine.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigemptyset(&mine.sa_mask);
  sigaction(SIGSEGV, &mine, nullptr);
}

// Neighbouring pages of one range change together.
template <class Wanted>
void each_run(const char *p, size_t bytes, int protection, Wanted wanted) {
  const uintptr_t end = page_of(p + bytes - 1) + kPage;
  uintptr_t from = 0, to = 0;
  auto flush = [&] {
    if (to > from) mprotect(reinterpret_cast<void *>(from), to - from, protection);
  };
  for (uintptr_t page = page_of(p); page < end; page += kPage) {
    if (!wanted(page)) continue;
    if (page != to) {
      flush();
      from = page;
    }
    to = page + kPage;
  }
  flush();
}

}  // namespace

void guard_by(void (*used)(const char *, bool, bool)) {
  Guard lock(state_mutex);
  if (used) tell = used;
  listen();
}

void guard_pages(char *p, size_t bytes) {
  if (!tell || bytes == 0) return;
  Guard lock(state_mutex);
  listen();
  char *start = nullptr;
  size_t size = 0;
  if (!pinned_block(p, &start, &size)) return;
  const uintptr_t first = page_of(start + kPage - 1), last = page_of(start + size);  // whole pages
  each_run(p, bytes, PROT_NONE,
           [&](uintptr_t page) { return page >= first && page < last && ++pages[page] == 1; });
}

void unguard_pages(char *p, size_t bytes) {
  if (bytes == 0) return;
  Guard lock(state_mutex);
  each_run(p, bytes, PROT_READ | PROT_WRITE, [&](uintptr_t page) {
    auto it = pages.find(page);
    if (it == pages.end() || --it->second > 0) return false;
    pages.erase(it);
    return true;
  });
}

}  // namespace acl_sim
