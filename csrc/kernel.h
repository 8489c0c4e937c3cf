// SPDX-License-Identifier: Apache-2.0
// A compiled kernel: loaded per device, launched with what its description makes of a call.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "driver.h"
#include "expression.h"
#include "tensor_map.h"

namespace helion_kernels {

class Kernel {
 public:
  Kernel(std::string image, std::string symbol, Words words,
         std::shared_ptr<const Signature> signature);

  // Load on device; idempotent. After it, launches on device neither load nor allocate.
  void prepare(int device);

  // call: one that the signature has checked. Throws unless what the code was compiled for holds.
  void launch(const Call& call, int device, cuda::Stream stream, bool pdl) const;

  const std::shared_ptr<const Signature>& signature() const { return signature_; }

 private:
  static constexpr int kMostParameters = 96;
  static constexpr int kMostTensorMaps = 8;

  enum class Form : int64_t { kPointer, kInt32, kInt64, kFloat32, kFloat64, kTensorMap };
  struct Parameter {
    Form form;
    int argument;      // Of pointers and floats; of a tensor map its place in maps_.
    Expression value;  // Of integers; a pointer's offset in bytes.
  };
  enum class Rule : int64_t { kEqual, kDivisible, kAligned };
  struct Assumption {
    Rule rule;
    int64_t number;
    int argument;  // Of kAligned.
    Expression value;
  };

  int take_argument(Words& words, Kind kind) const;
  void check(const Call& call) const;
  template <typename... Why>
  [[noreturn]] void refuse(int argument, const Why&... why) const;
  uint64_t value_of(const Parameter& parameter, const Call& call) const;
  unsigned extent(int axis, const Call& call) const;

  std::string image_;
  std::string symbol_;
  std::shared_ptr<const Signature> signature_;
  unsigned warps_, shared_, ctas_;  // ctas: blocks per cluster, along x.
  bool pdl_;  // It waits for its predecessor where it must.
  std::vector<Parameter> parameters_;
  std::vector<TensorMap> maps_;
  std::vector<Expression> grid_;
  std::vector<Assumption> assumptions_;
  std::mutex loading_;
  std::array<std::atomic<cuda::Function>, kMostDevices> functions_{};
};

}  // namespace helion_kernels
