// SPDX-License-Identifier: Apache-2.0
// The one exception. It leaves this library in one place only: a boxed operator, whence PyTorch
// makes it a Python RuntimeError. The C interface turns it into a code and a message.
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
