// SPDX-License-Identifier: Apache-2.0
// Reads what helion_kernels/native.py encodes: 64-bit words, never past their end.
#pragma once

#include <cstddef>
#include <cstdint>

#include "error.h"

namespace helion_kernels {

class Words {
 public:
  Words(const int64_t* words, size_t count) : next_(words), end_(words + count) {}

  int64_t take() {
    if (next_ == end_) fail("a kernel's description ends early");
    return *next_++;
  }

  // A word of [low, high].
  int64_t take(int64_t low, int64_t high, const char* what) {
    const int64_t word = take();
    if (word < low || word > high) fail("a kernel's description has ", what, " ", word);
    return word;
  }

  void end() const {
    if (next_ != end_) fail("a kernel's description goes on past its end");
  }

 private:
  const int64_t* next_;
  const int64_t* end_;
};

}  // namespace helion_kernels
