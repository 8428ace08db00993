// What the CUDA source of kdc needs to be C++: a GPU of one thread.
#include <cstdint>
#include <cstring>
#define __global__
#define __device__
struct Three {
  unsigned x, y, z;
};
static Three blockIdx, blockDim, threadIdx;
typedef unsigned short half_bits;
#if defined(__x86_64__)
#include <immintrin.h>
__attribute__((target("f16c"))) static half_bits to_half(float x) { return _cvtss_sh(x, 0); }
__attribute__((target("f16c"))) static float from_half(half_bits h) { return _cvtsh_ss(h); }
#else
static half_bits to_half(float x) {
  __fp16 h = static_cast<__fp16>(x);
  half_bits bits;
  return std::memcpy(&bits, &h, 2), bits;
}
static float from_half(half_bits bits) {
  __fp16 h;
  return std::memcpy(&h, &bits, 2), static_cast<float>(h);
}
#endif
