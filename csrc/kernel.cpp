// SPDX-License-Identifier: Apache-2.0
#include "kernel.h"

#include <cstring>
#include <limits>

namespace helion_kernels {

Kernel::Kernel(std::string image, std::string symbol, Words words,
               std::shared_ptr<const Signature> signature)
    : image_(std::move(image)), symbol_(std::move(symbol)), signature_(std::move(signature)) {
  const Expression none = [&] {
    const int64_t zero[] = {1, 2, 0};
    Words constant(zero, 3);
    return Expression(constant, *signature_);
  }();
  warps_ = unsigned(words.take(1, 32, "the warps"));
  shared_ = unsigned(words.take(0, 1 << 20, "the shared memory"));
  ctas_ = unsigned(words.take(1, 16, "the cluster"));
  pdl_ = words.take(0, 1, "the dependent launch") == 1;
  const int64_t parameters = words.take(0, kMostParameters, "the number of parameters");
  for (int64_t i = 0; i < parameters; ++i) {
    const Form form = Form(words.take(0, 5, "the form of a parameter"));
    const bool is_float = form == Form::kFloat32 || form == Form::kFloat64;
    int argument = 0;
    if (is_float) argument = take_argument(words, Kind::kFloat);
    if (form == Form::kPointer) argument = take_argument(words, Kind::kTensor);
    if (form == Form::kTensorMap) {
      argument = int(maps_.size());
      if (maps_.size() == kMostTensorMaps) fail(signature_->op(), ": too many tensor maps");
      maps_.emplace_back(take_argument(words, Kind::kTensor), words, *signature_);
    }
    const bool computed = !is_float && form != Form::kTensorMap;
    parameters_.push_back({form, argument, computed ? Expression(words, *signature_) : none});
  }
  for (int axis = 0; axis < 3; ++axis) grid_.emplace_back(words, *signature_);
  const int64_t assumptions = words.take(0, 4 * kMostParameters, "the number of assumptions");
  for (int64_t i = 0; i < assumptions; ++i) {
    const Rule rule = Rule(words.take(0, 2, "the rule of an assumption"));
    const int64_t number = words.take();
    if (rule != Rule::kEqual && number < 1) fail("a kernel's description divides by ", number);
    const int argument = rule == Rule::kAligned ? take_argument(words, Kind::kTensor) : 0;
    assumptions_.push_back({rule, number, argument, Expression(words, *signature_)});
  }
  words.end();
}

int Kernel::take_argument(Words& words, Kind kind) const {
  const int64_t argument = words.take();
  if (!signature_->is(argument, kind))
    fail(signature_->op(), ": argument ", argument, " is not what a kernel takes it for");
  return int(argument);
}

void Kernel::prepare(int device) {
  const Driver& driver = Driver::get();
  const std::lock_guard<std::mutex> lock(loading_);
  const Current current(device);
  if (functions_[device].load(std::memory_order_relaxed) != nullptr) return;
  cuda::Module module;
  cuda::Function function;
  driver.check(driver.module_load_data(&module, image_.data()), "cuModuleLoadData");
  driver.check(driver.module_get_function(&function, module, symbol_.c_str()),
               "cuModuleGetFunction");
  if (shared_ > cuda::kMaxDefaultShared) {
    driver.check(driver.function_set_cache_config(function, cuda::kCachePreferShared),
                 "cuFuncSetCacheConfig");
    driver.check(driver.function_set_attribute(function, cuda::kMaxDynamicSharedSizeBytes,
                                               int(shared_)),
                 "cuFuncSetAttribute");
  }
  if (driver.function_load != nullptr) driver.check(driver.function_load(function), "cuFuncLoad");
  functions_[device].store(function, std::memory_order_release);
}

template <typename... Why>
void Kernel::refuse(int argument, const Why&... why) const {
  fail("helion_kernels.", signature_->op(), ": ", signature_->arguments()[argument].name, " ", why...);
}

void Kernel::check(const Call& call) const {
  for (const Assumption& assumption : assumptions_) {
    const int64_t value = assumption.value(call);
    switch (assumption.rule) {
      case Rule::kEqual:
        if (value != assumption.number)
          refuse(assumption.value.argument(), "has a size or stride of ", value,
                 "; this plan's code was compiled for ", assumption.number);
        break;
      case Rule::kDivisible:
        if (value % assumption.number != 0)
          refuse(assumption.value.argument(), "has a size or stride of ", value,
                 "; this plan's code was compiled for multiples of ", assumption.number);
        break;
      case Rule::kAligned:
        if ((call.tensors[assumption.argument].data + uint64_t(value)) %
                uint64_t(assumption.number) != 0)
          refuse(assumption.argument, "must be aligned to ", assumption.number, " bytes");
        break;
    }
  }
}

uint64_t Kernel::value_of(const Parameter& parameter, const Call& call) const {
  uint64_t bits = 0;
  switch (parameter.form) {
    case Form::kPointer:
      return call.tensors[parameter.argument].data + uint64_t(parameter.value(call));
    case Form::kInt32: {
      const int64_t value = parameter.value(call);
      const int32_t narrow = int32_t(value);
      if (value != narrow)
        refuse(parameter.value.argument(), "has a size or stride of ", value,
               ", too large for this plan's code");
      std::memcpy(&bits, &narrow, sizeof narrow);
      return bits;
    }
    case Form::kInt64:
      return uint64_t(parameter.value(call));
    case Form::kFloat32: {
      const float narrow = float(call.scalars[parameter.argument]);
      std::memcpy(&bits, &narrow, sizeof narrow);
      return bits;
    }
    default:
      std::memcpy(&bits, &call.scalars[parameter.argument], sizeof bits);
      return bits;
  }
}

unsigned Kernel::extent(int axis, const Call& call) const {
  const int64_t value = grid_[axis](call);
  const int64_t most = axis == 0 ? std::numeric_limits<int32_t>::max() : 65535;
  if (value < 0 || value > most)
    refuse(grid_[axis].argument(), "needs a grid of ", value, " blocks");
  return unsigned(value);
}

void Kernel::launch(const Call& call, int device, cuda::Stream stream, bool pdl) const {
  const cuda::Function function = functions_[device].load(std::memory_order_acquire);
  if (function == nullptr)
    fail("helion_kernels.", signature_->op(), ": not prepared on device ", device);
  check(call);
  const Current current(device);  // A launch needs it, and tensor maps do.
  // Two more than described: Triton's global and profiling scratch, which these kernels do not use.
  uint64_t values[kMostParameters + 2];
  void* parameters[kMostParameters + 2];
  cuda::TensorMap maps[kMostTensorMaps];
  size_t count = 0;
  for (const Parameter& parameter : parameters_) {
    if (parameter.form == Form::kTensorMap) {
      maps_[parameter.argument].encode(call, *signature_, &maps[parameter.argument]);
      parameters[count++] = &maps[parameter.argument];
      continue;
    }
    values[count] = value_of(parameter, call);
    parameters[count] = &values[count];
    ++count;
  }
  for (int i = 0; i < 2; ++i, ++count) {
    values[count] = 0;
    parameters[count] = &values[count];
  }

  cuda::Attribute attributes[2];
  cuda::LaunchConfig config{extent(0, call) * ctas_, extent(1, call), extent(2, call),
                            32 * warps_, 1, 1, shared_, stream, attributes, 0};
  if (config.grid_x == 0 || config.grid_y == 0 || config.grid_z == 0) return;
  if (pdl && pdl_) {
    cuda::Attribute& attribute = attributes[config.num_attributes++];
    attribute.id = cuda::kProgrammaticStreamSerialization;
    attribute.value.programmatic_stream_serialization = 1;
  }
  if (ctas_ > 1) {
    cuda::Attribute& attribute = attributes[config.num_attributes++];
    attribute.id = cuda::kClusterDimension;
    attribute.value.cluster = {ctas_, 1, 1};
  }
  const Driver& driver = Driver::get();
  driver.check(driver.launch(&config, function, parameters, nullptr), "cuLaunchKernelEx");
}

}  // namespace helion_kernels
