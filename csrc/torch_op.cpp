// SPDX-License-Identifier: Apache-2.0
#include "torch_op.h"

#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <array>
#include <cstring>
#include <utility>

#include "plan.h"

namespace helion_kernels {
namespace {

constexpr int kMostOps = 64;

struct Op {
  std::string name;
  std::string kinds;
};

std::array<Op, kMostOps> ops;
std::mutex defining;
int defined = 0;
std::atomic<bool> pdl_on{true};

// The tensors of a stack, which whoever is called owns.
struct Owned {
  std::array<AtenTensorHandle, kMostArguments> tensors{};
  ~Owned() {
    for (AtenTensorHandle tensor : tensors)
      if (tensor != nullptr) aoti_torch_delete_tensor_object(tensor);
  }
};

void check(AOTITorchError error, const Op& op) {
  if (error != AOTI_TORCH_SUCCESS) fail("helion_kernels.", op.name, ": PyTorch refuses a tensor");
}

Tensor describe(AtenTensorHandle handle, const Op& op) {
  Tensor tensor{};
  int64_t *sizes, *strides;
  void* data;
  check(aoti_torch_get_dim(handle, &tensor.dimensions), op);
  check(aoti_torch_get_sizes(handle, &sizes), op);
  check(aoti_torch_get_strides(handle, &strides), op);
  check(aoti_torch_get_data_ptr(handle, &data), op);
  check(aoti_torch_get_dtype(handle, &tensor.dtype), op);
  check(aoti_torch_get_device_type(handle, &tensor.device_type), op);
  check(aoti_torch_get_device_index(handle, &tensor.device), op);
  tensor.sizes = sizes;
  tensor.strides = strides;
  tensor.data = reinterpret_cast<uint64_t>(data);
  return tensor;
}

// Moves a stack's tensors to owned, whatever comes later, so that none is leaked.
void take(const std::string& kinds, const StableIValue* stack, Owned& owned, Call& call) {
  for (size_t i = 0; i < kinds.size(); ++i) {
    if (kinds[i] == 'F') {
      std::memcpy(&call.scalars[i], &stack[i], sizeof(double));
      continue;
    }
    uint64_t word = stack[i];
    if (kinds[i] == 'O' && word != 0) {
      // An optional that holds something is a pointer to it, from new.
      auto* boxed = reinterpret_cast<StableIValue*>(word);
      word = *boxed;
      delete boxed;
    }
    owned.tensors[i] = reinterpret_cast<AtenTensorHandle>(word);
    call.given |= uint32_t(word != 0) << i;
  }
}

using CurrentStream = AOTITorchError (*)(int32_t, void**);

// PyTorch's, which only a CUDA build has.
CurrentStream current_stream() {
  static const auto function = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<CurrentStream>(
        library == nullptr ? nullptr : dlsym(library, "aoti_torch_get_current_cuda_stream"));
  }();
  return function;
}

cuda::Stream stream_of(const Driver& driver, int device) {
  void* stream = nullptr;
  if (driver.mock_stream != nullptr) {
    stream = driver.mock_stream(device);
  } else if (current_stream() == nullptr || current_stream()(device, &stream) != 0) {
    fail("this PyTorch has no CUDA streams");
  }
  return static_cast<cuda::Stream>(stream);
}

void run(int slot, const StableIValue* stack, uint64_t count) {
  const Op& op = ops[slot];
  if (count != op.kinds.size() + 1) fail("helion_kernels.", op.name, ": ", count, " arguments");
  Owned owned;
  Call call;
  take(op.kinds, stack, owned, call);
  const int64_t number = int64_t(stack[count - 1]);
  const Plan* plan = plans().find(number);
  if (plan == nullptr || plan->signature().op() != op.name)
    fail("helion_kernels.", op.name, ": there is no plan ", number, " of this op");
  for (size_t i = 0; i < op.kinds.size(); ++i)
    if (call.given >> i & 1) call.tensors[i] = describe(owned.tensors[i], op);
  const Driver& driver = Driver::get();
  const bool mock = driver.mock_stream != nullptr;
  plan->signature().check(call, mock ? aoti_torch_device_type_cpu() : aoti_torch_device_type_cuda());
  const int device = mock ? 0 : call.tensors[0].device;
  plan->launch(call, device, stream_of(driver, device), pdl_on.load(std::memory_order_relaxed));
}

// PyTorch calls a plain function: a boxed one per op, each with its slot.
template <int slot>
void boxed(StableIValue* stack, uint64_t count, uint64_t) {
  run(slot, stack, count);
}

using Boxed = void (*)(StableIValue*, uint64_t, uint64_t);

template <int... slot>
constexpr std::array<Boxed, sizeof...(slot)> boxes(std::integer_sequence<int, slot...>) {
  return {boxed<slot>...};
}

constexpr auto kBoxes = boxes(std::make_integer_sequence<int, kMostOps>{});

}  // namespace

void define_op(const std::string& schema, const std::string& kinds) {
  const std::lock_guard<std::mutex> lock(defining);
  const std::string name = schema.substr(0, schema.find('('));
  if (defined == kMostOps) fail("more than ", kMostOps, " ops");
  if (kinds.size() > kMostArguments || kinds.find_first_not_of("TOF") != std::string::npos)
    fail(name, ": arguments of kinds ", kinds);
  ops[defined] = {name, kinds};
  // Libraries live as long as the process: destroying one would take its ops back.
  TorchLibraryHandle library = nullptr;
  bool failed = aoti_torch_library_init_fragment("helion_kernels_native", __FILE__, __LINE__,
                                                 &library) != 0 ||
                aoti_torch_library_def(library, schema.c_str()) != 0;
  for (const char* key : {"CUDA", "CPU"}) {
    TorchLibraryHandle implementation = nullptr;
    failed = failed ||
             aoti_torch_library_init_impl("helion_kernels_native", key, __FILE__, __LINE__,
                                          &implementation) != 0 ||
             aoti_torch_library_impl(implementation, name.c_str(), kBoxes[defined]) != 0;
  }
  if (failed) fail("PyTorch refuses to define ", schema);
  ++defined;
}

std::vector<int32_t> dtypes() {
  return {aoti_torch_dtype_bfloat16(), aoti_torch_dtype_float16(),
          aoti_torch_dtype_float32(),  aoti_torch_dtype_float8_e4m3fn(),
          aoti_torch_dtype_int32(),    aoti_torch_dtype_int64(),
          aoti_torch_dtype_uint8()};
}

void set_pdl(bool on) { pdl_on.store(on, std::memory_order_relaxed); }

}  // namespace helion_kernels
