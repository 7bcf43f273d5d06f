// SPDX-License-Identifier: Apache-2.0
//
// Processes of the machine, as the parts that share memory between them look at them.
#ifndef ASCEND_SIM_PROCESS_H_
#define ASCEND_SIM_PROCESS_H_

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

// Start time of a process in clock ticks since boot, which tells it from a later one with
// its pid; 0 if it is dead. A zombie is dead: nothing of it runs any more.
inline uint64_t process_start_time(pid_t pid) {
  char path[64], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", static_cast<int>(pid));
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  const ssize_t length = read(fd, text, sizeof text - 1);
  close(fd);
  if (length <= 0) return 0;
  text[length] = 0;
  // The name in parentheses may hold anything: fields are counted from its end.
  const char *field = strrchr(text, ')');
  if (!field) return 0;
  char state = 0;
  unsigned long long start = 0;
  if (sscanf(field + 1,
             " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
             &state, &start) != 2)
    return 0;
  return state == 'Z' || state == 'X' ? 0 : start;
}

#endif  // ASCEND_SIM_PROCESS_H_
