// SPDX-License-Identifier: Apache-2.0
//
// The ACL runtime: the configuration of the simulated machine, errors, start-up and versions.
#include "acl_process.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <mutex>
#include <set>
#include <string>

namespace acl_sim {

thread_local std::string last_message;
thread_local int last_error = 0;
std::recursive_mutex state_mutex;

namespace {

constexpr size_t kSmallestMemory = size_t{2} << 20;  // a huge page

bool parse_number(const char *text, size_t *value) {
  if (!text || *text < '0' || *text > '9') return false;
  char *end = nullptr;
  errno = 0;
  *value = strtoull(text, &end, 10);
  return errno == 0 && *end == 0;
}

Config read_config() {
  Config c;
  size_t devices = 1;
  const char *text = getenv("ASCEND_SIM_DEVICES");
  if (text && (!parse_number(text, &devices) || devices < 1 || devices > kMaxDevices)) {
    c.error = std::string("ASCEND_SIM_DEVICES='") + text + "' is not a number from 1 to 64";
    return c;
  }
  text = getenv("ASCEND_SIM_MEMORY");
  if (text && (!parse_number(text, &c.memory) || c.memory < kSmallestMemory)) {
    c.error = std::string("ASCEND_SIM_MEMORY='") + text + "' is not a number of bytes from 2097152";
    return c;
  }
  if ((text = getenv("ASCEND_SIM_SOC")) && *text) c.soc = text;
  if ((text = getenv("ASCEND_SIM_OVERHEADS")) && *text) c.overheads = *text != '0';
  if ((text = getenv("ASCEND_SIM_CANN")) && *text) c.cann = text;
  if ((text = getenv("ASCEND_SIM_MACHINE")) && *text) c.machine = text;
  for (char &ch : c.machine)
    if (!isalnum(static_cast<unsigned char>(ch)) && !strchr("._-", ch)) ch = '_';
  text = getenv("ASCEND_RT_VISIBLE_DEVICES");
  if (!text) {
    for (size_t i = 0; i < devices; ++i) c.physical[c.count++] = static_cast<int>(i);
    return c;
  }
  // As the real runtime: the list ends at the first entry that names no device.
  std::string list = text;
  size_t from = 0;
  while (from <= list.size() && c.count < kMaxDevices) {
    size_t comma = list.find(',', from);
    if (comma == std::string::npos) comma = list.size();
    size_t number = 0;
    std::string entry = list.substr(from, comma - from);
    entry.erase(std::remove(entry.begin(), entry.end(), ' '), entry.end());
    if (!parse_number(entry.c_str(), &number) || number >= devices) break;
    c.physical[c.count++] = static_cast<int>(number);
    from = comma + 1;
  }
  return c;
}

Config &settings() {
  static Config c = read_config();
  return c;
}

}  // namespace

const Config &config() { return settings(); }

int need_configuration() {
  if (config().error.empty()) return ACL_SUCCESS;
  fprintf(stderr, "ascend simulator: %s\n", config().error.c_str());
  return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "%s", config().error.c_str());
}

bool valid_device(int device) { return device >= 0 && device < config().count; }

}  // namespace acl_sim

using namespace acl_sim;

int ascend_sim_error(int code, const char *format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  last_message = std::string("ascend simulator: ") + text;
  last_error = code;
  return code;
}

int ascend_sim_unimplemented(const char *function) {
  static std::mutex mutex;
  static std::set<std::string> told;
  {
    std::lock_guard<std::mutex> guard(mutex);
    if (told.insert(function).second)
      fprintf(stderr, "ascend simulator: %s was called, which the simulator does not implement\n", function);
  }
  return ascend_sim_error(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "%s is not implemented", function);
}

// Of a process that was forked before any device was opened, and then given other variables.
ACL_API void ascend_sim_configure_again(void) { settings() = read_config(); }

const char *ascend_sim_machine(void) { return config().machine.c_str(); }

// The configuration is a JSON file; of it only "default_device": "N" means something here.
ACL_API int aclInit(const char *path) {
  if (int code = need_configuration()) return code;
  FILE *f = path && *path ? fopen(path, "r") : nullptr;
  if (!f) return ACL_SUCCESS;
  char text[4096];
  text[fread(text, 1, sizeof text - 1, f)] = 0;
  fclose(f);
  const char *p = strstr(text, "\"default_device\"");
  int device = 0;
  if (p && sscanf(p + strlen("\"default_device\""), " : \"%d", &device) == 1) default_device = device;
  return ACL_SUCCESS;
}

ACL_API int aclFinalize(void) { return ACL_SUCCESS; }

ACL_API const char *aclGetRecentErrMsg(void) {
  static thread_local std::string given;  // lives until the thread asks again
  given.swap(last_message);
  last_message.clear();
  return given.c_str();
}

ACL_API int aclrtGetLastError(int) {
  int code = last_error;
  last_error = 0;
  return code;
}

ACL_API int aclrtPeekAtLastError(int) { return last_error; }

ACL_API const char *aclrtGetSocName(void) { return config().soc.c_str(); }

struct PackageVersion {  // aclCANNPackageVersion
  char version[128];
  char major[64];
  char minor[64];
  char release[64];
  char patch[64];
  char reserved[128];
};

ACL_API int aclsysGetCANNVersion(int, PackageVersion *version) {
  if (!version) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclsysGetCANNVersion(NULL)");
  memset(version, 0, sizeof *version);
  snprintf(version->version, sizeof version->version, "%s", config().cann.c_str());
  char *parts[] = {version->major, version->minor, version->release, version->patch};
  std::string rest = config().cann;
  for (char *part : parts) {
    size_t dot = rest.find('.');
    snprintf(part, 64, "%s", rest.substr(0, dot).c_str());
    rest = dot == std::string::npos ? "" : rest.substr(dot + 1);
  }
  return ACL_SUCCESS;
}

ACL_API int aclsysGetVersionStr(char *, char *version) {
  if (!version) return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclsysGetVersionStr(NULL)");
  snprintf(version, 128, "%s", config().cann.c_str());
  return ACL_SUCCESS;
}

// Whether inf and NaN, bfloat16 and run-time compilation exist on the chip: attribute 0, 1, 2.
ACL_API int aclGetCannAttribute(int attribute, int32_t *value) {
  if (!value || attribute < 0 || attribute > 2)
    return ascend_sim_error(ACL_ERROR_RT_PARAM_INVALID, "aclGetCannAttribute(%d)", attribute);
  *value = 1;
  return ACL_SUCCESS;
}

ACL_API int aclGetCannAttributeList(const int **list, size_t *count) {
  static const int all[] = {0, 1, 2};
  *list = all;
  *count = 3;
  return ACL_SUCCESS;
}
