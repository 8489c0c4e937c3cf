// SPDX-License-Identifier: Apache-2.0
#include "expression.h"

#include <algorithm>

namespace helion_kernels {
namespace {

constexpr int64_t kMostSteps = 64;
constexpr int kMostDepth = 16;

}  // namespace

Expression::Expression(Words& words, const Signature& signature) {
  const int64_t count = words.take(1, kMostSteps, "the length of an expression");
  int depth = 0;
  for (int64_t i = 0; i < count; ++i) {
    Step step{Code(words.take(0, int64_t(Code::kMax), "the operator")), 0, 0, 0};
    if (step.code == Code::kSize || step.code == Code::kStride) {
      const int64_t argument = words.take(), dimension = words.take();
      if (!signature.has(argument, dimension))
        fail(signature.op(), ": no dimension ", dimension, " of argument ", argument);
      step.argument = int8_t(argument);
      step.dimension = int8_t(dimension);
    } else if (step.code == Code::kConst) {
      step.value = words.take();
    }
    depth += step.code <= Code::kConst ? 1 : -1;
    if (depth < 1 || depth > kMostDepth) fail(signature.op(), ": an expression does not add up");
    steps_.push_back(step);
  }
  if (depth != 1) fail(signature.op(), ": an expression leaves ", depth, " values");
}

int Expression::argument() const {
  for (const Step& step : steps_)
    if (step.code == Code::kSize || step.code == Code::kStride) return step.argument;
  return 0;
}

int64_t Expression::apply(Code code, int64_t left, int64_t right) {
  switch (code) {
    case Code::kAdd:
      return int64_t(uint64_t(left) + uint64_t(right));
    case Code::kMultiply:
      return int64_t(uint64_t(left) * uint64_t(right));
    case Code::kDivide:
    case Code::kModulo: {
      if (right == 0) return 0;
      if (right == -1) return code == Code::kDivide ? int64_t(-uint64_t(left)) : 0;
      // C++ rounds towards zero, Python towards minus infinity.
      const int64_t quotient = left / right, remainder = left % right;
      const bool down = remainder != 0 && (remainder < 0) != (right < 0);
      return code == Code::kDivide ? quotient - down : remainder + (down ? right : 0);
    }
    case Code::kMin:
      return std::min(left, right);
    default:
      return std::max(left, right);
  }
}

int64_t Expression::evaluate(const Call& call) const {
  int64_t stack[kMostDepth];
  int64_t* top = stack;  // One past the last value.
  for (const Step& step : steps_) {
    if (step.code <= Code::kConst) {
      *top++ = leaf(step, call);
    } else {
      --top;
      top[-1] = apply(step.code, top[-1], top[0]);
    }
  }
  return stack[0];
}

}  // namespace helion_kernels
