// SPDX-License-Identifier: Apache-2.0
// The one exception. It never leaves this library, whose C++ runtime is its own: a boxed operator has
// PyTorch throw in its place, the C interface turns it into a code and a message.
#pragma once

#include <stdexcept>
#include <string>
#include <type_traits>

namespace helion_kernels {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Streams would bring half a megabyte of locales along.
template <typename Part>
std::string text(const Part& part) {
  if constexpr (std::is_arithmetic_v<Part>)
    return std::to_string(part);
  else
    return part;
}

template <typename... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail(const Parts&... parts) {
  throw Error((text(parts) + ...));
}

}  // namespace helion_kernels
