// SPDX-License-Identifier: Apache-2.0
#include "plan.h"

#include <algorithm>

namespace helion_kernels {
namespace {

constexpr int64_t kMostTokens = 1 << 20;

}  // namespace

Plan::Plan(std::vector<std::shared_ptr<Kernel>> kernels, const std::vector<int64_t>& upto)
    : kernels_(std::move(kernels)) {
  if (kernels_.empty() || kernels_.size() != upto.size() || kernels_.size() > UINT16_MAX)
    fail("a plan needs a bound for each of its kernels, and a kernel");
  for (const auto& kernel : kernels_)
    if (kernel->signature() != kernels_.front()->signature()) fail("a plan mixes signatures");
  if (!std::is_sorted(upto.begin(), upto.end()) || upto[0] < 1 || upto.back() > kMostTokens)
    fail("a plan's bounds ascend from 1 to ", kMostTokens);
  variant_of_.resize(upto.back() + 1);
  for (size_t i = 0, tokens = 0; i < upto.size(); ++i)
    for (; int64_t(tokens) <= upto[i]; ++tokens) variant_of_[tokens] = uint16_t(i);
}

void Plan::prepare(int device) {
  for (const auto& kernel : kernels_) kernel->prepare(device);
}

void Plan::launch(const Call& call, int device, cuda::Stream stream, bool pdl) const {
  const size_t tokens = size_t(call.tensors[0].sizes[0]);
  if (tokens == 0) return;
  kernels_[variant_of_[std::min(tokens, variant_of_.size() - 1)]]->launch(call, device, stream, pdl);
}

Table<Kernel, 65536>& kernels() {
  static auto& table = *new Table<Kernel, 65536>;
  return table;
}

Table<Plan, 16384>& plans() {
  static auto& table = *new Table<Plan, 16384>;
  return table;
}

Table<const Signature, 16384>& signatures() {
  static auto& table = *new Table<const Signature, 16384>;
  return table;
}

}  // namespace helion_kernels
