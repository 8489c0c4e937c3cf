// SPDX-License-Identifier: Apache-2.0
#include "tensor_map.h"

namespace helion_kernels {
namespace {

constexpr int64_t kMostBox = 256;  // Elements of a tile along a dimension.
constexpr int64_t kAlignment = 16;  // Bytes, of the address and of the stride.
constexpr int64_t kMostExtent = int64_t(1) << 32;

struct Type {
  cuda::TensorMapType type;
  int64_t item;
};

// By index into DTYPES of helion_kernels/aot/index.py; FP8 is copied as bytes.
constexpr Type kTypes[] = {{cuda::TensorMapType::kBfloat16, 2}, {cuda::TensorMapType::kFloat16, 2},
                           {cuda::TensorMapType::kFloat32, 4},  {cuda::TensorMapType::kUint8, 1},
                           {cuda::TensorMapType::kInt32, 4},    {cuda::TensorMapType::kInt64, 8},
                           {cuda::TensorMapType::kUint8, 1}};

}  // namespace

TensorMap::TensorMap(int argument, Words& words, const Signature& signature) : argument_(argument) {
  const Argument& matrix = signature.arguments()[argument];
  const int64_t type = words.take(0, int64_t(std::size(kTypes)) - 1, "the type of a tile");
  type_ = kTypes[type].type;
  item_ = kTypes[type].item;
  inner_ = int(words.take(0, 1, "the inner dimension of a tile"));
  for (uint32_t& extent : box_) extent = uint32_t(words.take(1, kMostBox, "a tile's extent"));
  swizzle_ = cuda::Swizzle(words.take(0, 3, "the swizzle of a tile"));
  if (matrix.dimensions.size() != 2 || !matrix.dimensions[inner_].unit_stride)
    fail(signature.op(), ": ", matrix.name, " is no matrix of such tiles");
  const int64_t row = box_[0] * item_;
  if (row % kAlignment != 0 || (swizzle_ != cuda::Swizzle::kNone && row > 16 << int(swizzle_)))
    fail(signature.op(), ": ", matrix.name, " has tiles of ", row, " bytes a row");
}

void TensorMap::encode(const Call& call, const Signature& signature, cuda::TensorMap* map) const {
  const Tensor& tensor = call.tensors[argument_];
  const uint64_t extents[] = {uint64_t(tensor.sizes[inner_]), uint64_t(tensor.sizes[1 - inner_])};
  // A single row's stride says nothing, and may be anything.
  const int64_t stride = extents[1] == 1 ? kAlignment : tensor.strides[1 - inner_] * item_;
  const auto refuse = [&](auto... why) {
    fail("helion_kernels.", signature.op(), ": ", signature.arguments()[argument_].name, " ", why...);
  };
  if (tensor.data % kAlignment != 0) refuse("must be aligned to ", kAlignment, " bytes");
  if (stride < kAlignment || stride % kAlignment != 0)
    refuse("has rows of ", stride, " bytes, not a multiple of ", kAlignment);
  for (const uint64_t extent : extents)
    if (extent == 0 || extent > uint64_t(kMostExtent)) refuse("has a size of ", extent);
  const uint64_t strides[] = {uint64_t(stride)};
  const uint32_t steps[] = {1, 1};
  const Driver& driver = Driver::get();
  driver.check(driver.tensor_map_encode_tiled(
                   map, type_, 2, reinterpret_cast<void*>(tensor.data), extents, strides, box_, steps,
                   cuda::Interleave::kNone, swizzle_, cuda::Promotion::k256Bytes, cuda::Fill::kZeros),
               "cuTensorMapEncodeTiled");
}

}  // namespace helion_kernels
