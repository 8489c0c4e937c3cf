// SPDX-License-Identifier: Apache-2.0
// What an op is called with, and what its kernels take for granted about it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "words.h"

namespace helion_kernels {

constexpr int kMostArguments = 16;
constexpr int kMostDimensions = 8;

struct Tensor {
  const int64_t* sizes;
  const int64_t* strides;
  uint64_t data;
  int64_t dimensions;
  int32_t dtype;
  int32_t device_type;
  int32_t device;
};

// One call's arguments, each in the slot of its position.
struct Call {
  std::array<Tensor, kMostArguments> tensors;
  std::array<double, kMostArguments> scalars;
  uint32_t given = 0;  // Bit i: argument i is a tensor, and not None.
};

enum class Kind : int64_t { kNone, kTensor, kFloat };
enum class Size : int64_t { kExactly, kNumTokens, kAny, kAtMostNumTokens };

struct Dimension {
  Size rule;
  int64_t value;
  bool unit_stride;
};

struct Argument {
  std::string name;
  Kind kind;
  int32_t dtype;
  bool wide;  // May span 2^31 elements or more.
  std::vector<Dimension> dimensions;
};

class Signature {
 public:
  // names: comma-separated. dtypes: PyTorch's number of each dtype that a word may stand for.
  Signature(std::string op, const std::string& names, Words words,
            const std::vector<int32_t>& dtypes);

  // Throws an Error that names op and argument unless the call is one that the kernels can serve.
  void check(const Call& call, int32_t device_type) const;

  // Whether argument is a tensor that has such a dimension.
  bool has(int64_t argument, int64_t dimension) const;
  bool is(int64_t argument, Kind kind) const;

  const std::string& op() const { return op_; }
  const std::vector<Argument>& arguments() const { return arguments_; }

 private:
  void check(const Argument& argument, const Tensor& tensor, const Tensor& first,
             int32_t device_type) const;

  std::string op_;
  std::vector<Argument> arguments_;
};

}  // namespace helion_kernels
