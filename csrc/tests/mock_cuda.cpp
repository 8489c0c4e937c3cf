// SPDX-License-Identifier: Apache-2.0
// A CUDA driver without a GPU: records each launch with the parameter bytes that a kernel would see,
// whose layout it reads from the cubin, as the real driver does. tests/csrc drives it by ctypes.
#include <atomic>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace {

struct Parameter {
  uint32_t offset, size;
};

struct Function {
  std::string name;
  std::vector<Parameter> parameters;  // By ordinal.
  int device;
  int max_dynamic_shared = 48 * 1024;
};

struct Launch {
  unsigned grid[3], block[3], shared, num_attributes;
  int device;
  int attribute_ids[4];
  void* stream;
  uint32_t size;
  uint8_t bytes[1024];
};

std::mutex mutex;
std::vector<std::unique_ptr<Function>> functions;
std::map<std::string, int> failures;  // name of a driver function -> the error that it returns
Launch last;
std::atomic<int64_t> launches{0}, loads{0};
std::atomic<int> capability{90}, devices{2};
std::atomic<bool> recording{true};
int contexts[64];
thread_local std::vector<void*> stack{nullptr};  // of contexts

int failure(const char* name) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = failures.find(name);
  return found == failures.end() ? 0 : found->second;
}

template <typename T>
T read(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// The parameters of each kernel of a cubin: EIATTR_KPARAM_INFO of its .nv.info section.
std::map<std::string, std::vector<Parameter>> parameters_of(const uint8_t* elf) {
  std::map<std::string, std::vector<Parameter>> kernels;
  if (std::memcmp(elf, "\x7f" "ELF", 4) != 0) return kernels;
  const uint8_t* sections = elf + read<uint64_t>(elf + 40);
  const uint16_t count = read<uint16_t>(elf + 60);
  const auto section = [&](int i) { return sections + 64 * i; };
  const uint8_t* names = elf + read<uint64_t>(section(read<uint16_t>(elf + 62)) + 24);
  const std::string prefix = ".nv.info.";
  for (int i = 0; i < count; ++i) {
    const std::string name = reinterpret_cast<const char*>(names + read<uint32_t>(section(i)));
    if (name.compare(0, prefix.size(), prefix) != 0) continue;
    auto& parameters = kernels[name.substr(prefix.size())];
    const uint8_t* next = elf + read<uint64_t>(section(i) + 24);
    const uint8_t* end = next + read<uint64_t>(section(i) + 32);
    while (next + 4 <= end) {
      const uint8_t format = next[0], attribute = next[1];
      const uint16_t size = read<uint16_t>(next + 2);
      if (format == 4 && attribute == 0x17) {
        const uint16_t ordinal = read<uint16_t>(next + 8), offset = read<uint16_t>(next + 10);
        if (parameters.size() <= ordinal) parameters.resize(ordinal + 1);
        parameters[ordinal] = {offset, read<uint32_t>(next + 12) >> 18};
      }
      next += 4 + (format == 4 ? size : 0);
    }
  }
  return kernels;
}

struct Module {
  std::map<std::string, std::vector<Parameter>> kernels;
  int device;
};

struct Config {
  unsigned grid[3], block[3], shared;
  void* stream;
  const uint8_t* attributes;
  unsigned num_attributes;
};

}  // namespace

extern "C" {

int cuInit(unsigned) { return failure("cuInit"); }

int cuGetErrorString(int error, const char** text) {
  *text = error == 2 ? "out of memory" : "mock error";
  return 0;
}

int cuDeviceGetCount(int* count) {
  *count = devices;
  return failure("cuDeviceGetCount");
}

int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal < 0 || ordinal >= devices ? 101 : failure("cuDeviceGet");
}

int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 0;
  return failure("cuDeviceGetAttribute");
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = &contexts[device];
  return failure("cuDevicePrimaryCtxRetain");
}

int cuCtxGetCurrent(void** context) {
  *context = stack.back();
  return 0;
}

int cuCtxPushCurrent_v2(void* context) {
  stack.push_back(context);
  return failure("cuCtxPushCurrent");
}

int cuCtxPopCurrent_v2(void** context) {
  *context = stack.back();
  stack.pop_back();
  return 0;
}

int cuCtxSetCurrent(void* context) {
  stack.back() = context;
  return 0;
}

int cuModuleLoadData(void** module, const void* image) {
  if (int error = failure("cuModuleLoadData")) return error;
  ++loads;
  void* current = stack.back();
  if (current == nullptr) return 201;
  *module = new Module{parameters_of(static_cast<const uint8_t*>(image)),
                       int(static_cast<int*>(current) - contexts)};
  return static_cast<Module*>(*module)->kernels.empty() ? 200 : 0;
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
  if (int error = failure("cuModuleGetFunction")) return error;
  auto* loaded = static_cast<Module*>(module);
  const auto found = loaded->kernels.find(name);
  if (found == loaded->kernels.end()) return 500;
  const std::lock_guard<std::mutex> lock(mutex);
  functions.push_back(std::make_unique<Function>(
      Function{name, found->second, loaded->device}));
  *function = functions.back().get();
  return 0;
}

int cuFuncSetAttribute(void* function, int attribute, int value) {
  if (attribute == 8) static_cast<Function*>(function)->max_dynamic_shared = value;
  return failure("cuFuncSetAttribute");
}

int cuFuncGetAttribute(int* value, int, void*) {
  *value = 0;
  return 0;
}

int cuFuncSetCacheConfig(void*, int) { return failure("cuFuncSetCacheConfig"); }

// Not NVIDIA's encoding, which is secret: what was asked for, word by word.
int cuTensorMapEncodeTiled(uint64_t* map, int type, uint32_t rank, void* address,
                           const uint64_t* sizes, const uint64_t* strides, const uint32_t* box,
                           const uint32_t* steps, int interleave, int swizzle, int promotion,
                           int fill) {
  if (stack.back() == nullptr) return 201;  // As the driver: no context, no tensor map.
  std::memset(map, 0, 128);
  const uint64_t words[] = {uint64_t(type),  rank,     reinterpret_cast<uint64_t>(address),
                            sizes[0],        sizes[1], strides[0],
                            box[0],          box[1],   steps[0],
                            steps[1],        uint64_t(interleave), uint64_t(swizzle),
                            uint64_t(promotion), uint64_t(fill)};
  std::memcpy(map, words, sizeof words);
  return failure("cuTensorMapEncodeTiled");
}

int cuFuncLoad(void*) { return failure("cuFuncLoad"); }

int cuLaunchKernelEx(const Config* config, void* handle, void** parameters, void**) {
  ++launches;
  if (!recording) return 0;
  if (int error = failure("cuLaunchKernelEx")) return error;
  const auto* function = static_cast<const Function*>(handle);
  if (stack.back() != nullptr && stack.back() != &contexts[function->device]) return 400;
  if (int(config->shared) > function->max_dynamic_shared) return 1;
  const std::lock_guard<std::mutex> lock(mutex);
  last = Launch{};
  std::memcpy(last.grid, config->grid, sizeof last.grid);
  std::memcpy(last.block, config->block, sizeof last.block);
  last.shared = config->shared;
  last.stream = config->stream;
  last.device = function->device;
  last.num_attributes = config->num_attributes;
  for (unsigned i = 0; i < config->num_attributes && i < 4; ++i)
    last.attribute_ids[i] = read<int>(config->attributes + 72 * i);
  for (size_t i = 0; i < function->parameters.size(); ++i) {
    const Parameter& parameter = function->parameters[i];
    if (parameter.offset + parameter.size > sizeof last.bytes) return 1;
    std::memcpy(last.bytes + parameter.offset, parameters[i], parameter.size);
    if (parameter.offset + parameter.size > last.size)
      last.size = parameter.offset + parameter.size;
  }
  return 0;
}

// What Triton's own launcher and loader also ask for.
int cuPointerGetAttribute(void* data, int, uint64_t pointer) {
  std::memcpy(data, &pointer, sizeof pointer);
  return 0;
}

// Only the mock has what follows.
void* helion_kernels_mock_stream(int device) {
  return reinterpret_cast<void*>(uintptr_t(0x5000 + device));
}
void mock_fail(const char* name, int error) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (error == 0)
    failures.erase(name);
  else
    failures[name] = error;
}
void mock_set_capability(int value) { capability = value; }
void mock_set_recording(int on) { recording = on != 0; }
void mock_set_current(int device) { stack.assign(1, device < 0 ? nullptr : &contexts[device]); }
int64_t mock_launches() { return launches; }
int64_t mock_loads() { return loads; }
void mock_last(Launch* launch) {
  const std::lock_guard<std::mutex> lock(mutex);
  *launch = last;
}
}
