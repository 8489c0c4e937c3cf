// SPDX-License-Identifier: Apache-2.0
#include "torch.h"

#include "symbols.h"

namespace helion_kernels {

Torch::Torch() {
  void* library = dlopen("libtorch_cpu.so", RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) fail("PyTorch is not loaded: import torch first");
  const auto get = [&](const char* name, auto& function) { find(library, "PyTorch", name, function); };
  get("aoti_torch_delete_tensor_object", delete_tensor);
  get("aoti_torch_get_dim", get_dim);
  get("aoti_torch_get_sizes", get_sizes);
  get("aoti_torch_get_strides", get_strides);
  get("aoti_torch_get_data_ptr", get_data_ptr);
  get("aoti_torch_get_dtype", get_dtype);
  get("aoti_torch_get_device_type", get_device_type);
  get("aoti_torch_get_device_index", get_device_index);
  get("aoti_torch_library_init_fragment", library_init_fragment);
  get("aoti_torch_library_init_impl", library_init_impl);
  get("aoti_torch_library_def", library_def);
  get("aoti_torch_library_impl", library_impl);
  get("aoti_torch_device_type_cpu", device_type_cpu);
  get("aoti_torch_device_type_cuda", device_type_cuda);
  get("aoti_torch_dtype_bfloat16", dtype_bfloat16);
  get("aoti_torch_dtype_float16", dtype_float16);
  get("aoti_torch_dtype_float32", dtype_float32);
  get("aoti_torch_dtype_float8_e4m3fn", dtype_float8_e4m3fn);
  get("aoti_torch_dtype_int32", dtype_int32);
  get("aoti_torch_dtype_int64", dtype_int64);
  get("aoti_torch_dtype_uint8", dtype_uint8);
  get("aoti_torch_check", check);
  void* cuda = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD);
  current_cuda_stream = nullptr;
  if (cuda != nullptr)
    find(cuda, "PyTorch", "aoti_torch_get_current_cuda_stream", current_cuda_stream);
}

const Torch& Torch::get() {
  static const Torch torch;
  return torch;
}

}  // namespace helion_kernels
