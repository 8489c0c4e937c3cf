// SPDX-License-Identifier: Apache-2.0
// The one exception. It never leaves this library, whose C++ runtime is its own: a boxed operator has
// PyTorch throw in its place, the C interface turns it into a code and a message.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace helion_kernels {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <typename... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw Error(text.str());
}

}  // namespace helion_kernels
