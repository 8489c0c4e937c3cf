// SPDX-License-Identifier: Apache-2.0
#include "driver.h"

#include <array>
#include <atomic>
#include <cstdlib>

#include "symbols.h"

namespace helion_kernels {
namespace {

std::array<std::atomic<cuda::Context>, kMostDevices> contexts;

}  // namespace

Driver::Driver() {
  const char* given = std::getenv("HELION_KERNELS_CUDA_DRIVER");
  const char* path = given != nullptr ? given : "libcuda.so.1";
  // Never closed: launches may come until the process ends.
  void* library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) fail("no CUDA driver: ", dlerror());
  const auto get = [&](const char* name, auto& function, bool needed = true) {
    find(library, "the CUDA driver", name, function, needed);
  };
  get("cuInit", init);
  get("cuGetErrorString", get_error_string);
  get("cuDeviceGetCount", device_get_count);
  get("cuDeviceGet", device_get);
  get("cuDeviceGetAttribute", device_get_attribute);
  get("cuDevicePrimaryCtxRetain", primary_context_retain);
  get("cuCtxGetCurrent", context_get_current);
  get("cuCtxPushCurrent_v2", context_push);
  get("cuCtxPopCurrent_v2", context_pop);
  get("cuModuleLoadData", module_load_data);
  get("cuModuleGetFunction", module_get_function);
  get("cuFuncSetAttribute", function_set_attribute);
  get("cuFuncSetCacheConfig", function_set_cache_config);
  get("cuLaunchKernelEx", launch);
  get("cuTensorMapEncodeTiled", tensor_map_encode_tiled);
  get("cuFuncLoad", function_load, false);
  get("helion_kernels_mock_stream", mock_stream, false);
  check(init(0), "cuInit");
}

const Driver& Driver::get() {
  static const Driver driver;
  return driver;
}

void Driver::refuse(cuda::Result result, const char* what) const {
  const char* text = nullptr;
  get_error_string(result, &text);
  fail(what, ": CUDA error ", result, " (", text != nullptr ? text : "unknown", ")");
}

cuda::Context context_of(int device) {
  if (device < 0 || device >= kMostDevices) fail("no CUDA device ", device);
  if (cuda::Context known = contexts[device].load(std::memory_order_acquire)) return known;
  const Driver& driver = Driver::get();
  cuda::Device handle;
  cuda::Context context;
  driver.check(driver.device_get(&handle, device), "cuDeviceGet");
  driver.check(driver.primary_context_retain(&context, handle), "cuDevicePrimaryCtxRetain");
  contexts[device].store(context, std::memory_order_release);
  return context;
}

Current::Current(int device) {
  const Driver& driver = Driver::get();
  const cuda::Context wanted = context_of(device);
  cuda::Context current = nullptr;
  driver.check(driver.context_get_current(&current), "cuCtxGetCurrent");
  if (current == wanted) return;
  driver.check(driver.context_push(wanted), "cuCtxPushCurrent");
  pushed_ = true;
}

Current::~Current() {
  cuda::Context ignored;
  if (pushed_) Driver::get().context_pop(&ignored);
}

}  // namespace helion_kernels
