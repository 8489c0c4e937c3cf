// SPDX-License-Identifier: Apache-2.0
// Plans: for one op and its static sizes, which kernel serves which number of tokens.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "kernel.h"

namespace helion_kernels {

class Plan {
 public:
  // upto[i]: the most tokens that kernels[i] serves, ascending; the last serves any number.
  Plan(std::vector<std::shared_ptr<Kernel>> kernels, const std::vector<int64_t>& upto);

  void prepare(int device);
  void launch(const Call& call, int device, cuda::Stream stream, bool pdl) const;

  const Signature& signature() const { return *kernels_.front()->signature(); }

 private:
  std::vector<std::shared_ptr<Kernel>> kernels_;
  std::vector<uint16_t> variant_of_;  // num_tokens -> kernel; the last entry serves all beyond.
};

// Things with numbers: added under a lock, found without one, never removed.
template <typename Thing, size_t kMost>
class Table {
 public:
  int64_t add(std::shared_ptr<Thing> thing) {
    const std::lock_guard<std::mutex> lock(adding_);
    const size_t number = owned_.size();
    if (number == kMost) fail("more than ", kMost, " kernels or plans in one process");
    owned_.push_back(std::move(thing));
    known_[number].store(owned_.back().get(), std::memory_order_release);
    return int64_t(number);
  }

  // Null if there is none.
  Thing* find(int64_t number) const {
    if (number < 0 || number >= int64_t(kMost)) return nullptr;
    return known_[number].load(std::memory_order_acquire);
  }

  std::shared_ptr<Thing> share(int64_t number) {
    const std::lock_guard<std::mutex> lock(adding_);
    if (number < 0 || number >= int64_t(owned_.size())) fail("no number ", number);
    return owned_[number];
  }

 private:
  std::mutex adding_;
  std::vector<std::shared_ptr<Thing>> owned_;
  std::array<std::atomic<Thing*>, kMost> known_{};
};

// Never destroyed: a launch may come while the process ends.
Table<Kernel, 65536>& kernels();
Table<Plan, 16384>& plans();
Table<const Signature, 16384>& signatures();

}  // namespace helion_kernels
