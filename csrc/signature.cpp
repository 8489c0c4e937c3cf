// SPDX-License-Identifier: Apache-2.0
#include "signature.h"

#include <algorithm>
#include <limits>

namespace helion_kernels {
namespace {

Argument read(std::string name, Words& words, const std::vector<int32_t>& dtypes) {
  Argument argument{std::move(name), Kind(words.take(0, 2, "the kind of argument")), 0, false, {}};
  if (argument.kind != Kind::kTensor) return argument;
  argument.dtype = dtypes[words.take(0, int64_t(dtypes.size()) - 1, "the dtype")];
  argument.wide = words.take(0, 1, "the width") == 1;
  argument.dimensions.resize(words.take(0, kMostDimensions, "the number of dimensions"));
  for (Dimension& dimension : argument.dimensions) {
    dimension.rule = Size(words.take(0, 3, "the rule of a size"));
    dimension.value = words.take();
    dimension.unit_stride = words.take(0, 1, "the unit stride") == 1;
  }
  return argument;
}

std::string list(const int64_t* values, int64_t count) {
  std::string joined;
  for (int64_t i = 0; i < count; ++i) joined += (i ? ", " : "") + std::to_string(values[i]);
  return "[" + joined + "]";
}

std::string shape(const Tensor& tensor) {
  return "sizes " + list(tensor.sizes, tensor.dimensions) + ", strides " +
         list(tensor.strides, tensor.dimensions);
}

}  // namespace

Signature::Signature(std::string op, const std::string& names, Words words,
                     const std::vector<int32_t>& dtypes)
    : op_(std::move(op)) {
  for (size_t begin = 0; begin < names.size();) {
    const size_t end = std::min(names.find(',', begin), names.size());
    arguments_.push_back(read(names.substr(begin, end - begin), words, dtypes));
    begin = end + 1;
  }
  words.end();
  if (arguments_.size() > kMostArguments) fail(op_, ": more than ", kMostArguments, " arguments");
  if (!has(0, 0)) fail(op_, ": the first argument is no tensor with a dimension of tokens");
}

bool Signature::is(int64_t argument, Kind kind) const {
  return argument >= 0 && argument < int64_t(arguments_.size()) &&
         arguments_[argument].kind == kind;
}

bool Signature::has(int64_t argument, int64_t dimension) const {
  return is(argument, Kind::kTensor) && dimension >= 0 &&
         dimension < int64_t(arguments_[argument].dimensions.size());
}

void Signature::check(const Call& call, int32_t device_type) const {
  for (size_t i = 0; i < arguments_.size(); ++i) {
    const Argument& argument = arguments_[i];
    if (argument.kind == Kind::kFloat) continue;
    const bool wanted = argument.kind == Kind::kTensor;
    if (wanted != bool(call.given >> i & 1))
      fail("helion_kernels.", op_, ": ", argument.name, wanted ? " must be a tensor" : " must be None",
           " in this plan");
    if (wanted) check(argument, call.tensors[i], call.tensors[0], device_type);
  }
}

void Signature::check(const Argument& argument, const Tensor& tensor, const Tensor& first,
                      int32_t device_type) const {
  const auto refuse = [&](const auto&... why) {
    fail("helion_kernels.", op_, ": ", argument.name, " ", why...);
  };
  if (tensor.device_type != device_type) refuse("is not on a CUDA device");
  if (tensor.device != first.device)
    refuse("is on device ", tensor.device, ", ", arguments_[0].name, " on ", first.device);
  if (tensor.dtype != argument.dtype)
    refuse("has dtype number ", tensor.dtype, " of PyTorch's; this plan takes ", argument.dtype);
  if (tensor.dimensions != int64_t(argument.dimensions.size()))
    refuse("has ", tensor.dimensions, " dimensions instead of ", argument.dimensions.size());
  const int64_t num_tokens = first.sizes[0];
  // Elements from the first to the last: __int128, for sizes and strides may be anything here.
  __int128 extent = 0;
  for (int64_t d = 0; d < tensor.dimensions; ++d) {
    const Dimension& rule = argument.dimensions[d];
    const int64_t size = tensor.sizes[d], stride = tensor.strides[d];
    if (rule.rule == Size::kExactly && size != rule.value)
      refuse("has size ", size, " in dimension ", d, " instead of ", rule.value, "; ", shape(tensor));
    if (rule.rule == Size::kNumTokens && size != num_tokens)
      refuse("has ", size, " rows in dimension ", d, ", ", arguments_[0].name, " has ", num_tokens);
    if (rule.rule == Size::kAtMostNumTokens && size > num_tokens)
      refuse("has ", size, " entries for ", num_tokens, " tokens");
    if (rule.unit_stride && stride != 1 && size > 1)
      refuse("must have stride 1 in dimension ", d, "; ", shape(tensor));
    if (stride < 0) refuse("has a negative stride; ", shape(tensor));
    if (size > 0) extent += __int128(size - 1) * stride;
  }
  if (!argument.wide && extent > std::numeric_limits<int32_t>::max())
    refuse("spans more than 2^31 elements; ", shape(tensor));
}

}  // namespace helion_kernels
