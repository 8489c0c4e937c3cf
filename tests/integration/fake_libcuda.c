/* SPDX-License-Identifier: Apache-2.0 */
/* What Triton's launchers call of the driver, for a GPU with room for everything. It counts. */
static int launches, loads;

int fake_launches(void) { return launches; }
int fake_loads(void) { return loads; }

int cuLaunchKernelEx(const void *config, void *function, void **arguments, void **extra) {
  launches++;
  return 0;
}
int cuModuleLoadData(void **module, const void *image) {
  loads++;
  *module = &loads;
  return 0;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
  *function = module;
  return 0;
}
int cuFuncGetAttribute(int *value, int attribute, void *function) {
  *value = attribute ? 0 : 1024; /* CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK */
  return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = 232448;
  return 0;
}
int cuCtxGetCurrent(void **context) {
  *context = &launches;
  return 0;
}
int cuPointerGetAttribute(unsigned long long *value, int attribute, unsigned long long pointer) {
  *value = pointer;
  return 0;
}
int cuGetErrorString(int error, const char **text) {
  *text = "fake";
  return 0;
}
#define DOES_NOTHING(name) \
  int name(void) { return 0; }
DOES_NOTHING(cuCtxGetLimit)
DOES_NOTHING(cuCtxSetCurrent)
DOES_NOTHING(cuCtxSetLimit)
DOES_NOTHING(cuDeviceGet)
DOES_NOTHING(cuDevicePrimaryCtxRetain)
DOES_NOTHING(cuFuncSetAttribute)
DOES_NOTHING(cuFuncSetCacheConfig)
DOES_NOTHING(cuOccupancyMaxActiveClusters)
DOES_NOTHING(cuTensorMapEncodeTiled)
