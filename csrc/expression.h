// SPDX-License-Identifier: Apache-2.0
// Integers that depend on sizes and strides: helion_kernels/aot/expression.py in C++.
#pragma once

#include <cstdint>
#include <vector>

#include "signature.h"
#include "words.h"

namespace helion_kernels {

class Expression {
 public:
  // Refuses words that name no size or stride of signature, or that leave not just one value.
  Expression(Words& words, const Signature& signature);

  // 0 for a division by 0; wraps around where a value exceeds 64 bits.
  int64_t operator()(const Call& call) const {
    const Step& first = steps_[0];
    return steps_.size() == 1 ? leaf(first, call) : evaluate(call);
  }

  // The argument whose size or stride it reads first; 0 for a constant.
  int argument() const;

 private:
  enum class Code : int8_t { kSize, kStride, kConst, kAdd, kMultiply, kDivide, kModulo, kMin, kMax };
  struct Step {
    Code code;
    int8_t argument;
    int8_t dimension;
    int64_t value;
  };

  static int64_t leaf(const Step& step, const Call& call) {
    if (step.code == Code::kConst) return step.value;
    const Tensor& tensor = call.tensors[step.argument];
    return (step.code == Code::kSize ? tensor.sizes : tensor.strides)[step.dimension];
  }
  static int64_t apply(Code code, int64_t left, int64_t right);
  int64_t evaluate(const Call& call) const;

  std::vector<Step> steps_;
};

}  // namespace helion_kernels
