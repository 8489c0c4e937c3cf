// SPDX-License-Identifier: Apache-2.0
// PyTorch's stable C interface, found at run time: nothing of PyTorch is needed to build.
//
// Declarations as in torch/csrc/inductor/aoti_torch/c/shim.h; tests/csrc/test_abi.py compares them.
#pragma once

#include <cstdint>

struct AtenTensorOpaque;
class TorchLibraryOpaque;

namespace helion_kernels {

struct Torch {
  using Error = int32_t;  // 0 is success.
  using Tensor = AtenTensorOpaque*;
  using Library = TorchLibraryOpaque*;
  using Value = uint64_t;  // A place on PyTorch's stack.
  using Boxed = void (*)(Value*, uint64_t, uint64_t);

  Error (*delete_tensor)(Tensor);
  Error (*get_dim)(Tensor, int64_t*);
  Error (*get_sizes)(Tensor, int64_t**);
  Error (*get_strides)(Tensor, int64_t**);
  Error (*get_data_ptr)(Tensor, void**);
  Error (*get_dtype)(Tensor, int32_t*);
  Error (*get_device_type)(Tensor, int32_t*);
  Error (*get_device_index)(Tensor, int32_t*);
  Error (*library_init_fragment)(const char*, const char*, uint32_t, Library*);
  Error (*library_init_impl)(const char*, const char*, const char*, uint32_t, Library*);
  Error (*library_def)(Library, const char*);
  Error (*library_impl)(Library, const char*, Boxed);
  int32_t (*device_type_cpu)();
  int32_t (*device_type_cuda)();
  int32_t (*dtype_bfloat16)();
  int32_t (*dtype_float16)();
  int32_t (*dtype_float32)();
  int32_t (*dtype_float8_e4m3fn)();
  int32_t (*dtype_int32)();
  int32_t (*dtype_int64)();
  int32_t (*dtype_uint8)();
  // Throws PyTorch's exception, which Python sees as a RuntimeError, unless the first is true.
  void (*check)(bool, const char*, const char*, uint32_t, const char*);
  // Null in a PyTorch without CUDA.
  Error (*current_cuda_stream)(int32_t, void**);

  // PyTorch, which must be loaded already; throws if it is not, or has not all of these.
  static const Torch& get();

 private:
  Torch();
};

}  // namespace helion_kernels
