// SPDX-License-Identifier: Apache-2.0
// The CUDA driver, found at run time: nothing of CUDA is needed to build or to import.
//
// Declarations as in NVIDIA's cuda.h, whose ABI is stable; tests/csrc/test_abi.py compares them.
#pragma once

#include <cstdint>
#include <string>

namespace helion_kernels {
namespace cuda {

using Result = int;
using Device = int;
struct ContextHandle;
struct ModuleHandle;
struct FunctionHandle;
struct StreamHandle;
using Context = ContextHandle*;
using Module = ModuleHandle*;
using Function = FunctionHandle*;
using Stream = StreamHandle*;

constexpr int kComputeCapabilityMajor = 75;
constexpr int kComputeCapabilityMinor = 76;
constexpr int kMaxDynamicSharedSizeBytes = 8;
constexpr int kCachePreferShared = 1;
constexpr int kMaxDefaultShared = 48 * 1024;

constexpr int kClusterDimension = 4;
constexpr int kProgrammaticStreamSerialization = 6;

struct Attribute {
  int id;
  char pad[4];
  union {
    char bytes[64];
    int programmatic_stream_serialization;
    struct {
      unsigned x, y, z;
    } cluster;
  } value;
};

// What the copy engine of sm_90 is told of a tensor (CUtensorMap).
struct alignas(64) TensorMap {
  uint64_t words[16];
};

enum class TensorMapType : int {
  kUint8 = 0, kInt32 = 3, kInt64 = 5, kFloat16 = 6, kFloat32 = 7, kBfloat16 = 9
};
enum class Interleave : int { kNone = 0 };
enum class Swizzle : int { kNone = 0, k32Bytes = 1, k64Bytes = 2, k128Bytes = 3 };
enum class Promotion : int { k256Bytes = 3 };
enum class Fill : int { kZeros = 0 };

struct LaunchConfig {
  unsigned grid_x, grid_y, grid_z;
  unsigned block_x, block_y, block_z;
  unsigned shared_bytes;
  Stream stream;
  Attribute* attributes;
  unsigned num_attributes;
};

}  // namespace cuda

struct Driver {
  cuda::Result (*init)(unsigned);
  cuda::Result (*get_error_string)(cuda::Result, const char**);
  cuda::Result (*device_get_count)(int*);
  cuda::Result (*device_get)(cuda::Device*, int);
  cuda::Result (*device_get_attribute)(int*, int, cuda::Device);
  cuda::Result (*primary_context_retain)(cuda::Context*, cuda::Device);
  cuda::Result (*context_get_current)(cuda::Context*);
  cuda::Result (*context_push)(cuda::Context);
  cuda::Result (*context_pop)(cuda::Context*);
  cuda::Result (*module_load_data)(cuda::Module*, const void*);
  cuda::Result (*module_get_function)(cuda::Function*, cuda::Module, const char*);
  cuda::Result (*function_set_attribute)(cuda::Function, int, int);
  cuda::Result (*function_set_cache_config)(cuda::Function, int);
  cuda::Result (*launch)(const cuda::LaunchConfig*, cuda::Function, void**, void**);
  cuda::Result (*tensor_map_encode_tiled)(cuda::TensorMap*, cuda::TensorMapType, uint32_t rank,
                                          void* address, const uint64_t* sizes,
                                          const uint64_t* strides, const uint32_t* box,
                                          const uint32_t* steps, cuda::Interleave, cuda::Swizzle,
                                          cuda::Promotion, cuda::Fill);
  // Loads now what lazy loading would load at the first launch; null before CUDA 12.4.
  cuda::Result (*function_load)(cuda::Function);
  // The mock's stream, null in NVIDIA's driver; with it CPU tensors stand for CUDA ones.
  void* (*mock_stream)(int);

  // The driver, opened at the first call; throws if there is none. The library is libcuda.so.1, or
  // what HELION_KERNELS_CUDA_DRIVER names.
  static const Driver& get();

  // Throws unless result is 0; what: what was tried.
  void check(cuda::Result result, const char* what) const {
    if (result != 0) refuse(result, what);
  }

 private:
  Driver();
  [[noreturn]] void refuse(cuda::Result result, const char* what) const;
};

constexpr int kMostDevices = 64;

// A device's primary context, which PyTorch uses too.
cuda::Context context_of(int device);

// Makes a device's context current, for as long as it lives, if it is not.
class Current {
 public:
  explicit Current(int device);
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  bool pushed_ = false;
};

}  // namespace helion_kernels
