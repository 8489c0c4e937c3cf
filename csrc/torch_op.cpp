// SPDX-License-Identifier: Apache-2.0
#include "torch_op.h"

#include <array>
#include <cstring>
#include <utility>

#include "plan.h"
#include "torch.h"

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
  std::array<Torch::Tensor, kMostArguments> tensors{};
  ~Owned() {
    for (Torch::Tensor tensor : tensors)
      if (tensor != nullptr) Torch::get().delete_tensor(tensor);
  }
};

// An undefined tensor, which is what None becomes, has no sizes, strides or memory to tell of.
Tensor describe(Torch::Tensor handle, const Op& op, const Argument& argument) {
  const Torch& torch = Torch::get();
  Tensor tensor{};
  int64_t *sizes, *strides;
  void* data;
  const bool described = torch.get_dim(handle, &tensor.dimensions) == 0 &&
                         torch.get_sizes(handle, &sizes) == 0 &&
                         torch.get_strides(handle, &strides) == 0 &&
                         torch.get_data_ptr(handle, &data) == 0 &&
                         torch.get_dtype(handle, &tensor.dtype) == 0 &&
                         torch.get_device_type(handle, &tensor.device_type) == 0 &&
                         torch.get_device_index(handle, &tensor.device) == 0;
  if (!described) fail("helion_kernels.", op.name, ": ", argument.name, " is no dense tensor");
  tensor.sizes = sizes;
  tensor.strides = strides;
  tensor.data = reinterpret_cast<uint64_t>(data);
  return tensor;
}

// Moves a stack's tensors to owned, whatever comes later, so that none is leaked.
void take(const std::string& kinds, const Torch::Value* stack, Owned& owned, Call& call) {
  for (size_t i = 0; i < kinds.size(); ++i) {
    if (kinds[i] == 'F') {
      std::memcpy(&call.scalars[i], &stack[i], sizeof(double));
      continue;
    }
    uint64_t word = stack[i];
    if (kinds[i] == 'O' && word != 0) {
      // An optional that holds something is a pointer to it, from new.
      auto* boxed = reinterpret_cast<Torch::Value*>(word);
      word = *boxed;
      delete boxed;
    }
    owned.tensors[i] = reinterpret_cast<Torch::Tensor>(word);
    call.given |= uint32_t(word != 0) << i;
  }
}

cuda::Stream stream_of(const Driver& driver, int device) {
  void* stream = nullptr;
  if (driver.mock_stream != nullptr) {
    stream = driver.mock_stream(device);
  } else {
    const auto current = Torch::get().current_cuda_stream;
    if (current == nullptr || current(device, &stream) != 0) fail("this PyTorch has no CUDA streams");
  }
  return static_cast<cuda::Stream>(stream);
}

void run(int slot, const Torch::Value* stack, uint64_t count) {
  const Op& op = ops[slot];
  if (count != op.kinds.size() + 1) fail("helion_kernels.", op.name, ": ", count, " arguments");
  Owned owned;
  Call call;
  take(op.kinds, stack, owned, call);
  const int64_t number = int64_t(stack[count - 1]);
  const Plan* plan = plans().find(number);
  if (plan == nullptr || plan->signature().op() != op.name)
    fail("helion_kernels.", op.name, ": there is no plan ", number, " of this op");
  const std::vector<Argument>& arguments = plan->signature().arguments();
  if (arguments.size() != op.kinds.size())
    fail("helion_kernels.", op.name, ": plan ", number, " takes ", arguments.size(), " arguments");
  for (size_t i = 0; i < arguments.size(); ++i)
    if (call.given >> i & 1) call.tensors[i] = describe(owned.tensors[i], op, arguments[i]);
  const Driver& driver = Driver::get();
  const bool mock = driver.mock_stream != nullptr;
  plan->signature().check(call, mock ? Torch::get().device_type_cpu() : Torch::get().device_type_cuda());
  const int device = mock ? 0 : call.tensors[0].device;
  plan->launch(call, device, stream_of(driver, device), pdl_on.load(std::memory_order_relaxed));
}

thread_local std::string last_error;

// PyTorch calls a plain function: a boxed one per op, each with its slot.
template <int slot>
void boxed(Torch::Value* stack, uint64_t count, uint64_t) {
  try {
    run(slot, stack, count);
    return;
  } catch (const std::exception& error) {
    last_error = error.what();
  }
  // Outside of the handler: PyTorch's exception passes through a frame that has nothing to clean up.
  Torch::get().check(false, "boxed", __FILE__, __LINE__, last_error.c_str());
}

template <int... slot>
constexpr std::array<Torch::Boxed, sizeof...(slot)> boxes(std::integer_sequence<int, slot...>) {
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
  const Torch& torch = Torch::get();
  Torch::Library library = nullptr;
  bool failed =
      torch.library_init_fragment("helion_kernels_native", __FILE__, __LINE__, &library) != 0 ||
      torch.library_def(library, schema.c_str()) != 0;
  for (const char* key : {"CUDA", "CPU"}) {
    Torch::Library implementation = nullptr;
    failed = failed ||
             torch.library_init_impl("helion_kernels_native", key, __FILE__, __LINE__,
                                     &implementation) != 0 ||
             torch.library_impl(implementation, name.c_str(), kBoxes[defined]) != 0;
  }
  if (failed) fail("PyTorch refuses to define ", schema);
  ++defined;
}

std::vector<int32_t> dtypes() {
  const Torch& torch = Torch::get();
  return {torch.dtype_bfloat16(), torch.dtype_float16(), torch.dtype_float32(),
          torch.dtype_float8_e4m3fn(), torch.dtype_int32(), torch.dtype_int64(),
          torch.dtype_uint8()};
}

void set_pdl(bool on) { pdl_on.store(on, std::memory_order_relaxed); }

}  // namespace helion_kernels
