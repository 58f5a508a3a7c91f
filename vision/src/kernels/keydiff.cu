// Scores of a cache's entries by how far their keys point away from the mean key of their head (engine::model::cache::keydiff).

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace {

__device__ float number(float x) { return x; }
__device__ float number(__half x) { return __half2float(x); }
__device__ float number(__nv_bfloat16 x) { return __bfloat162float(x); }

constexpr int WARPS = 16;
// Keys that a warp reads at a time.
constexpr int BATCH = 4;
// Keys shorter than this have no direction.
constexpr float SHORTEST = 1e-12f;

__device__ float whole(float x) {
  for (int away = 16; away > 0; away /= 2) x += __shfl_xor_sync(0xffffffff, x, away);
  return x;
}

// scores [heads, n] of keys [heads, n, 32 PARTS], whose heads lie `stride` numbers apart. A block has a head, a warp one key after
// the other; sums have the same order in every run. RAW: the mean is of the keys as they are, else of the keys at length 1.
template <typename T, int PARTS>
__device__ void keydiff(const T* keys, float* scores, int n, int64_t stride, bool raw) {
  __shared__ float sums[WARPS][32 * PARTS];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const T* head = keys + blockIdx.x * stride;
  float* to = scores + static_cast<int64_t>(blockIdx.x) * n;
  float mean[PARTS] = {};
  const auto read = [&](float(&key)[BATCH][PARTS], int first) {
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
      const int64_t i = first + j * WARPS;
#pragma unroll
      for (int p = 0; p < PARTS; ++p) key[j][p] = i < n ? number(head[i * 32 * PARTS + p * 32 + lane]) : 0.f;
    }
  };
  for (int first = warp; first < n; first += WARPS * BATCH) {
    float key[BATCH][PARTS];
    read(key, first);
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
      float square = 0.f;
#pragma unroll
      for (int p = 0; p < PARTS; ++p) square = fmaf(key[j][p], key[j][p], square);
      const float length = sqrtf(whole(square));
      // No number is not shorter than anything: it shows in the score.
      const float inverse = length <= SHORTEST ? 0.f : 1.f / length, weight = raw ? 1.f : inverse;
#pragma unroll
      for (int p = 0; p < PARTS; ++p) mean[p] = fmaf(key[j][p], weight, mean[p]);
      if (lane == 0 && first + j * WARPS < n) to[first + j * WARPS] = inverse;
    }
  }
#pragma unroll
  for (int p = 0; p < PARTS; ++p) sums[warp][p * 32 + lane] = mean[p];
  __syncthreads();
  float square = 0.f;
#pragma unroll
  for (int p = 0; p < PARTS; ++p) {
    mean[p] = 0.f;
    for (int w = 0; w < WARPS; ++w) mean[p] += sums[w][p * 32 + lane];
    square = fmaf(mean[p], mean[p], square);
  }
  // Every warp has the same sums in the same order.
  const float length = fmaxf(sqrtf(whole(square)), SHORTEST);
  for (int first = warp; first < n; first += WARPS * BATCH) {
    float key[BATCH][PARTS];
    read(key, first);
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
      float dot = 0.f;
#pragma unroll
      for (int p = 0; p < PARTS; ++p) dot = fmaf(key[j][p], mean[p], dot);
      dot = whole(dot);
      if (lane == 0 && first + j * WARPS < n) to[first + j * WARPS] *= -dot / length;
    }
  }
}

}  // namespace

#define OF(NAME, T, PARTS)                                                                                     \
  extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                     \
      keydiff_##NAME##_##PARTS(const T* keys, float* scores, int n, int64_t stride, int raw) {                 \
    keydiff<T, PARTS>(keys, scores, n, stride, raw != 0);                                                      \
  }
#define ALL(PARTS)             \
  OF(f32, float, PARTS)        \
  OF(f16, __half, PARTS)       \
  OF(bf16, __nv_bfloat16, PARTS)
ALL(1)
ALL(2)
ALL(3)
ALL(4)
