// Softmax of half types (vision::nn).

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace {

__device__ float number(__half x) { return __half2float(x); }
__device__ float number(__nv_bfloat16 x) { return __bfloat162float(x); }

// One warp a row; half types are added up in f32, as in a softmax of f32.
template <typename T, typename Back>
__device__ void softmax(const T* x, T* y, int64_t rows, int n, Back back) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  x += row * n;
  y += row * n;
  float top = -INFINITY, total = 0.f;
  for (int i = threadIdx.x; i < n; i += 32) top = fmaxf(top, number(x[i]));
  for (int away = 16; away > 0; away /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, away));
  for (int i = threadIdx.x; i < n; i += 32) total += __expf(number(x[i]) - top);
  for (int away = 16; away > 0; away /= 2) total += __shfl_xor_sync(0xffffffff, total, away);
  const float share = 1.f / total;
  for (int i = threadIdx.x; i < n; i += 32) y[i] = back(__expf(number(x[i]) - top) * share);
}

}  // namespace

extern "C" __global__ void softmax_f16(const __half* x, __half* y, int64_t rows, int n) {
  softmax(x, y, rows, n, [](float v) { return __float2half(v); });
}
extern "C" __global__ void softmax_bf16(const __nv_bfloat16* x, __nv_bfloat16* y, int64_t rows, int n) {
  softmax(x, y, rows, n, [](float v) { return __float2bfloat16(v); });
}
