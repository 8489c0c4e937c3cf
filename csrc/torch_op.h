// SPDX-License-Identifier: Apache-2.0
// PyTorch operators that launch plans, over PyTorch's stable C interface alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace helion_kernels {

// Define `helion_kernels_native::<schema>`, whose last argument is the plan, and implement it. Kinds:
// a letter for each argument before that: T tensor, O tensor or None, F float.
void define_op(const std::string& schema, const std::string& kinds);

// PyTorch's number of each dtype, in the order of DTYPES of helion_kernels/native.py.
std::vector<int32_t> dtypes();

// Programmatic dependent launch, for kernels that are made for it.
void set_pdl(bool on);

}  // namespace helion_kernels
