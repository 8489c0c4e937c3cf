// SPDX-License-Identifier: Apache-2.0
// Functions of libraries that are there at run time only.
#pragma once

#include <dlfcn.h>

#include "error.h"

namespace helion_kernels {

// Sets function to a library's; throws if it is needed and not there. what: the library, in words.
template <typename Pointer>
void find(void* library, const char* what, const char* name, Pointer& function,
          bool needed = true) {
  function = reinterpret_cast<Pointer>(dlsym(library, name));
  if (needed && function == nullptr) fail(what, " has no ", name, ": it is too old");
}

}  // namespace helion_kernels
