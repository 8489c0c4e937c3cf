// SPDX-License-Identifier: Apache-2.0
// What Hopper's copy engine is told of a matrix, made of a call's tensor: a kernel parameter of 128
// bytes that holds its address, sizes and stride, and the tile that one copy moves.
#pragma once

#include "driver.h"
#include "signature.h"
#include "words.h"

namespace helion_kernels {

class TensorMap {
 public:
  // argument: a matrix of signature's, one of whose dimensions has unit stride. Refuses a tile that
  // the copy engine cannot move.
  TensorMap(int argument, Words& words, const Signature& signature);

  // Throws for a matrix that the copy engine cannot address, naming the argument.
  void encode(const Call& call, const Signature& signature, cuda::TensorMap* map) const;

 private:
  int argument_;
  int inner_;  // The dimension of unit stride.
  cuda::TensorMapType type_;
  int64_t item_;        // Bytes of an element.
  uint32_t box_[2];     // Elements of a tile, the inner dimension first.
  cuda::Swizzle swizzle_;
};

}  // namespace helion_kernels
