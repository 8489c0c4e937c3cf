// SPDX-License-Identifier: Apache-2.0
// The C interface that helion_kernels/native.py calls by ctypes, all of it before the first launch.
//
// Functions return a number, or -1 with the reason in helion_kernels_error().
#include <cstdint>
#include <string>

#include "plan.h"
#include "torch_op.h"

using namespace helion_kernels;

namespace {

thread_local std::string last_error;

template <typename Function>
int64_t guarded(Function function) noexcept {
  try {
    return function();
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "unknown error";
  }
  return -1;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT const char* helion_kernels_error() { return last_error.c_str(); }

EXPORT int64_t helion_kernels_define_op(const char* schema, const char* kinds) {
  return guarded([&] {
    define_op(schema, kinds);
    return int64_t(0);
  });
}

// How many devices the driver has.
EXPORT int64_t helion_kernels_devices() {
  return guarded([] {
    int count = 0;
    const Driver& driver = Driver::get();
    driver.check(driver.device_get_count(&count), "cuDeviceGetCount");
    return int64_t(count);
  });
}

// 10 * major + minor.
EXPORT int64_t helion_kernels_capability(int device) {
  return guarded([&] {
    const Driver& driver = Driver::get();
    int handle = 0, major = 0, minor = 0;
    driver.check(driver.device_get(&handle, device), "cuDeviceGet");
    driver.check(driver.device_get_attribute(&major, cuda::kComputeCapabilityMajor, handle),
                 "cuDeviceGetAttribute");
    driver.check(driver.device_get_attribute(&minor, cuda::kComputeCapabilityMinor, handle),
                 "cuDeviceGetAttribute");
    return int64_t(10 * major + minor);
  });
}

EXPORT int64_t helion_kernels_signature(const char* op, const char* names, const int64_t* words,
                                        uint64_t count) {
  return guarded([&] {
    return signatures().add(
        std::make_shared<const Signature>(op, names, Words(words, count), dtypes()));
  });
}

EXPORT int64_t helion_kernels_kernel(int64_t signature, const void* image, uint64_t size,
                                     const char* symbol, const int64_t* words, uint64_t count) {
  return guarded([&] {
    return kernels().add(std::make_shared<Kernel>(
        std::string(static_cast<const char*>(image), size), symbol, Words(words, count),
        signatures().share(signature)));
  });
}

EXPORT int64_t helion_kernels_plan(const int64_t* kernel_numbers, const int64_t* upto,
                                   uint64_t count) {
  return guarded([&] {
    std::vector<std::shared_ptr<Kernel>> chosen;
    for (uint64_t i = 0; i < count; ++i) chosen.push_back(kernels().share(kernel_numbers[i]));
    return plans().add(
        std::make_shared<Plan>(std::move(chosen), std::vector<int64_t>(upto, upto + count)));
  });
}

EXPORT int64_t helion_kernels_prepare(int64_t plan, int device) {
  return guarded([&] {
    plans().share(plan)->prepare(device);
    return int64_t(0);
  });
}

EXPORT void helion_kernels_set_pdl(int on) { set_pdl(on != 0); }
