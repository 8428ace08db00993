"""The CUDA source of what runs on a GPU before and after an engine, and its compiler (NVRTC, through cuda-python).

PyCUDA compiles the same text with nvcc. Normalisation is a look-up: ``Preprocess.apply`` itself makes the table of its
256 levels, so that a GPU prepares an image exactly as the CPU does.
"""

from typing import Any

import numpy as np

from ...distill.errors import ExportError, need
from ...distill.preprocess import Preprocess

#: threads in a block, one per pixel
THREADS = 256
#: the arguments of each kernel: P a device address, i an int32 (PyCUDA's letters)
SIGNATURES = {
    "normalise_float": "PPPiii",
    "normalise_half": "PPPiii",
    "argmax_float": "PPiii",
    "argmax_half": "PPiii",
}

SOURCE = r"""
#ifdef __CUDACC__
typedef unsigned short half_bits;
static __device__ half_bits to_half(float x) {
  half_bits h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return h;
}
static __device__ float from_half(half_bits h) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
  return x;
}
#endif
static __device__ float same(float x) { return x; }

// uint8 (n, h, w, 3) -> (n, 3, h, w): out[c] = table[c][level]; flip: the first plane is the last channel.
// count = n h w pixels, area = h w.
#define NORMALISE(NAME, TYPE, STORE)                                                                                   \
  extern "C" __global__ void NAME(const unsigned char* image, const float* table, TYPE* out, int count, int area,      \
                                  int flip) {                                                                          \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                                     \
    if (i >= count) return;                                                                                            \
    long long pixel = i, plane = 3LL * (i / area) * area + i % area;                                                   \
    for (int c = 0; c < 3; ++c)                                                                                        \
      out[plane + (long long)c * area] = STORE(table[256 * c + image[3 * pixel + (flip ? 2 - c : c)]]);                \
  }
NORMALISE(normalise_float, float, same)
NORMALISE(normalise_half, half_bits, to_half)

// (n, classes, h, w) -> uint8 (n, h, w): the first of the largest, and the first that is not a number, as numpy has it.
#define ARGMAX(NAME, TYPE, LOAD)                                                                                       \
  extern "C" __global__ void NAME(const TYPE* scores, unsigned char* mask, int count, int area, int classes) {         \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                                     \
    if (i >= count) return;                                                                                            \
    const TYPE* at = scores + (long long)classes * (i / area) * area + i % area;                                       \
    float best = LOAD(at[0]);                                                                                          \
    int found = 0;                                                                                                     \
    for (int k = 1; k < classes; ++k) {                                                                                \
      float value = LOAD(at[(long long)k * area]);                                                                     \
      if (value > best || (value != value && best == best)) best = value, found = k;                                   \
    }                                                                                                                  \
    mask[i] = (unsigned char)found;                                                                                    \
  }
ARGMAX(argmax_float, float, same)
ARGMAX(argmax_half, half_bits, from_half)
"""


def levels(preprocess: Preprocess) -> np.ndarray:
    """Return float32 ``(3, 256)``: the value of every grey level in every plane of a prepared image."""
    grey = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 1, 256, 3)
    return np.ascontiguousarray(preprocess.apply(grey).reshape(3, 256))


def compile_kernels(capability: tuple[int, int]) -> bytes:
    """Compile ``SOURCE`` by NVRTC: a cubin for this compute capability, or PTX where NVRTC is older than the GPU.

    Raises:
        ExportError: NVRTC is not installed, or refused it.
    """
    nvrtc: Any = need("cuda.bindings.nvrtc", "trt")
    try:
        known = _call(nvrtc, nvrtc.nvrtcGetSupportedArchs())
    except RuntimeError as error:  # its shared library is loaded at the first call
        raise ExportError(f"NVRTC, which compiles the GPU kernels, does not load ({error})") from error
    own = 10 * capability[0] + capability[1]
    exact = own in known
    architecture = f"sm_{own}" if exact else f"compute_{max(each for each in known if each < own)}"
    program = _call(nvrtc, nvrtc.nvrtcCreateProgram(SOURCE.encode(), b"kdc.cu", 0, [], []))
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17"]
    if nvrtc.nvrtcCompileProgram(program, len(options), options)[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = bytearray(_call(nvrtc, nvrtc.nvrtcGetProgramLogSize(program)))
        _call(nvrtc, nvrtc.nvrtcGetProgramLog(program, log))
        raise ExportError(f"NVRTC refused the GPU kernels for {architecture}: {log.decode().split(chr(10))[0]}")
    size, read = (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN) if exact else (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
    image = bytearray(_call(nvrtc, size(program)))
    _call(nvrtc, read(program, image))
    _call(nvrtc, nvrtc.nvrtcDestroyProgram(program))
    return bytes(image)


def _call(nvrtc: Any, answer: tuple[Any, ...]) -> Any:
    """Return what an NVRTC function gave beside its status."""
    status, *values = answer
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise ExportError(f"NVRTC failed: {nvrtc.nvrtcGetErrorString(status)[1].decode()}")
    return values[0] if values else None
