// Stands in for libcuda under the real bindings of cuda-python: a GPU whose memory is the host's and whose kernels are the
// CUDA source of kdc, compiled as C++ (the build puts that text in front of this file). What is queued is done at once,
// or when its graph is launched.

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace {
std::vector<std::function<void()>>* capturing = nullptr;
using Graph = std::vector<std::function<void()>>;
void queue(std::function<void()> work) {
  if (capturing)
    capturing->push_back(work);
  else
    work();
}
template <typename T>
T at(void** arguments, int i) {
  return *static_cast<T*>(arguments[i]);
}
using Bytes = unsigned char*;
const char* const names[] = {"", "normalise_float", "normalise_half", "argmax_float", "argmax_half"};
void launch(long kernel, void** a) {
  if (kernel == 1) normalise_float(at<Bytes>(a, 0), at<float*>(a, 1), at<float*>(a, 2), at<int>(a, 3), at<int>(a, 4), at<int>(a, 5));
  if (kernel == 2) normalise_half(at<Bytes>(a, 0), at<float*>(a, 1), at<half_bits*>(a, 2), at<int>(a, 3), at<int>(a, 4), at<int>(a, 5));
  if (kernel == 3) argmax_float(at<float*>(a, 0), at<Bytes>(a, 1), at<int>(a, 2), at<int>(a, 3), at<int>(a, 4));
  if (kernel == 4) argmax_half(at<half_bits*>(a, 0), at<Bytes>(a, 1), at<int>(a, 2), at<int>(a, 3), at<int>(a, 4));
}
float clock_ms = 0;
int alive = 0;  // what was made and not ended
bool broken = false;  // the capture, by a call that none allows
constexpr int INVALID = 1, NOT_FOUND = 500, UNSUPPORTED = 900, INVALIDATED = 901;
}  // namespace

extern "C" {
void stub_queue(void (*work)(void*), void* self) { queue([=] { work(self); }); }

int stub_alive() { return alive; }

int cuInit(unsigned) { return 0; }
int cuGetExportTable(const void** table, const void*) { return *table = nullptr, NOT_FOUND; }  // NVRTC asks for one
int cuDriverGetVersion(int* version) { return *version = 13020, 0; }
int cuDeviceGet(int* device, int) { return *device = 0, 0; }
int cuDeviceGetName(char* name, int length, int) { return std::strncpy(name, "Stub GPU", length), 0; }
int cuDeviceGetAttribute(int* value, int which, int) { return *value = which == 75 ? 8 : which == 76 ? 6 : 0, 0; }
int cuDevicePrimaryCtxRetain(void** context, int) { return ++alive, *context = &clock_ms, 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return --alive, 0; }
int cuCtxSetCurrent(void* context) { return context == &clock_ms ? 0 : INVALID; }
int cuStreamCreate(void** stream, unsigned) { return ++alive, *stream = &capturing, 0; }
int cuStreamSynchronize(void* stream) {
  return capturing ? (broken = true, UNSUPPORTED) : stream == &capturing ? 0 : INVALID;
}
int cuStreamDestroy_v2(void*) { return --alive, 0; }
int cuMemAlloc_v2(void** at, std::size_t size) { return size > std::size_t(1) << 32 ? 2 : (++alive, *at = std::malloc(size), 0); }
int cuMemFree_v2(void* at) { return --alive, std::free(at), 0; }
int cuMemHostAlloc(void** at, std::size_t size, unsigned) { return ++alive, *at = std::malloc(size), 0; }
int cuMemFreeHost(void* at) { return --alive, std::free(at), 0; }
int cuMemcpyHtoDAsync_v2(void* to, const void* from, std::size_t n, void*) { return queue([=] { std::memcpy(to, from, n); }), 0; }
int cuMemcpyDtoHAsync_v2(void* to, const void* from, std::size_t n, void*) { return queue([=] { std::memcpy(to, from, n); }), 0; }
int cuEventCreate(void** event, unsigned) { return ++alive, *event = new float(0), 0; }
int cuEventDestroy_v2(void* event) { return --alive, delete static_cast<float*>(event), 0; }
int cuEventRecord(void* event, void*) { return *static_cast<float*>(event) = ++clock_ms, 0; }
int cuEventElapsedTime_v2(float* ms, void* a, void* b) { return *ms = *static_cast<float*>(b) - *static_cast<float*>(a), 0; }
int cuEventElapsedTime(float* ms, void* a, void* b) { return cuEventElapsedTime_v2(ms, a, b); }
int cuStreamBeginCapture_v2(void*, int) { return capturing = new Graph, 0; }
int cuStreamEndCapture(void*, void** graph) {
  if (broken) return delete capturing, capturing = nullptr, broken = false, INVALIDATED;
  return ++alive, *graph = capturing, capturing = nullptr, 0;
}
int cuGraphDestroy(void* graph) { return --alive, delete static_cast<Graph*>(graph), 0; }
int cuGraphInstantiateWithFlags(void** ready, void* graph, unsigned long long) {
  return ++alive, *ready = new Graph(*static_cast<Graph*>(graph)), 0;
}
int cuGraphExecDestroy(void* ready) { return --alive, delete static_cast<Graph*>(ready), 0; }
int cuGraphLaunch(void* ready, void*) {
  for (auto& work : *static_cast<Graph*>(ready)) work();
  return 0;
}
int cuModuleLoadData(void** module, const void* image) {
  return std::memcmp(image, "\177ELF", 4) ? INVALID : (++alive, *module = &clock_ms, 0);  // a cubin is an ELF file
}
int cuModuleUnload(void*) { return --alive, 0; }
int cuModuleGetFunction(void** function, void*, const char* name) {
  for (long i = 1; i < 5; ++i)
    if (!std::strcmp(name, names[i])) return *function = reinterpret_cast<void*>(i), 0;
  return NOT_FOUND;
}
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned,
                   void*, void** arguments, void**) {
  blockDim = {bx, by, bz};
  for (unsigned block = 0; block < gx * gy * gz; ++block)
    for (unsigned thread = 0; thread < bx * by * bz; ++thread) {
      blockIdx = {block, 0, 0}, threadIdx = {thread, 0, 0};
      launch(reinterpret_cast<long>(function), arguments);
    }
  return 0;
}
void* stub_find(const char* name) {
  static void* self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  for (const char* suffix : {"_v2", "", "WithFlags"})
    if (void* found = dlsym(self, (std::string(name) + suffix).c_str())) return found;
  return nullptr;
}
int cuGetProcAddress_v2(const char* name, void** found, int, unsigned long long, int* status) {
  *found = stub_find(name);
  if (status) *status = *found ? 0 : 1;
  return 0;
}
}
