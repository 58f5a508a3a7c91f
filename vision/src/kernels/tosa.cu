// Choosing tokens and skipping the others (vision::encoder::tosa) without the processor looking on.

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace {

__device__ float number(float x) { return x; }
__device__ float number(__half x) { return __half2float(x); }
__device__ float number(__nv_bfloat16 x) { return __bfloat162float(x); }

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
// Queries of a block; their rows are added up in this order, so that a choice repeats itself.
constexpr int GROUP = 4;

struct Max {
  static constexpr float NONE = -INFINITY;
  __device__ static float of(float a, float b) { return fmaxf(a, b); }
};

struct Sum {
  static constexpr float NONE = 0.f;
  __device__ static float of(float a, float b) { return a + b; }
};

// What all threads' `x` give together, head by head; `across` holds a row a warp.
template <typename Op, int HEADS>
__device__ void together(float (&x)[HEADS], float (&across)[WARPS][HEADS]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int h = 0; h < HEADS; ++h) {
#pragma unroll
    for (int away = 16; away > 0; away /= 2) x[h] = Op::of(x[h], __shfl_xor_sync(0xffffffff, x[h], away));
  }
  __syncthreads();
#pragma unroll
  for (int h = 0; h < HEADS; ++h) {
    if (lane == h % 32) across[warp][h] = x[h];
  }
  __syncthreads();
#pragma unroll
  for (int h = 0; h < HEADS; ++h) {
    x[h] = Op::NONE;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) x[h] = Op::of(x[h], across[w][h]);
  }
}

// y[c] = bias[c] + sum of weight[c][h] * x[h], for several keys at once: a weight is read once for all of them.
template <int HEADS, int KEYS>
__device__ void mixed(const float (&x)[KEYS][HEADS], float (&y)[KEYS][HEADS], const float* weight, const float* bias,
                      bool positive) {
#pragma unroll
  for (int c = 0; c < HEADS; ++c) {
    float sum[KEYS];
#pragma unroll
    for (int j = 0; j < KEYS; ++j) sum[j] = bias[c];
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
      const float w = weight[c * HEADS + h];
#pragma unroll
      for (int j = 0; j < KEYS; ++j) sum[j] = fmaf(w, x[j][h], sum[j]);
    }
#pragma unroll
    for (int j = 0; j < KEYS; ++j) y[j][c] = positive ? fmaxf(sum[j], 0.f) : sum[j];
  }
}

// scores [b, HEADS, n, n]; weights [HEADS, HEADS] and biases [HEADS] of both convolutions; parts [b, groups, n]: the
// predicted map's columns, added up over the heads and the GROUP queries of a block, as a mean over heads. No map is written.
template <typename T, int HEADS, int KEYS>
__device__ void column_sums(const T* scores, const float* weight1, const float* bias1, const float* weight2,
                            const float* bias2, float* parts, int n) {
  __shared__ float weight[2 * HEADS * HEADS], bias[2 * HEADS], across[WARPS][HEADS];
  for (int i = threadIdx.x; i < HEADS * HEADS; i += THREADS) {
    weight[i] = weight1[i];
    weight[HEADS * HEADS + i] = weight2[i];
  }
  for (int i = threadIdx.x; i < HEADS; i += THREADS) {
    bias[i] = bias1[i];
    bias[HEADS + i] = bias2[i];
  }
  __syncthreads();
  const T* picture = scores + static_cast<int64_t>(blockIdx.y) * HEADS * n * n;
  const int first = blockIdx.x * GROUP, last = min(first + GROUP, n);
  float sums[KEYS];
#pragma unroll
  for (int j = 0; j < KEYS; ++j) sums[j] = 0.f;
  for (int q = first; q < last; ++q) {
    float x[KEYS][HEADS], hidden[KEYS][HEADS];
#pragma unroll
    for (int j = 0; j < KEYS; ++j) {
      const int key = threadIdx.x + j * THREADS;
#pragma unroll
      for (int h = 0; h < HEADS; ++h)
        x[j][h] = key < n ? number(picture[(static_cast<int64_t>(h) * n + q) * n + key]) : 0.f;
    }
    mixed<HEADS, KEYS>(x, hidden, weight, bias, true);
    mixed<HEADS, KEYS>(hidden, x, weight + HEADS * HEADS, bias + HEADS, false);
    float top[HEADS], total[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
      top[h] = -INFINITY;
#pragma unroll
      for (int j = 0; j < KEYS; ++j)
        if (threadIdx.x + j * THREADS < n) top[h] = fmaxf(top[h], x[j][h]);
    }
    together<Max, HEADS>(top, across);
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
      total[h] = 0.f;
#pragma unroll
      for (int j = 0; j < KEYS; ++j) {
        x[j][h] = threadIdx.x + j * THREADS < n ? __expf(x[j][h] - top[h]) : 0.f;
        total[h] += x[j][h];
      }
    }
    together<Sum, HEADS>(total, across);
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
      const float share = 1.f / (total[h] * HEADS);
#pragma unroll
      for (int j = 0; j < KEYS; ++j) sums[j] = fmaf(x[j][h], share, sums[j]);
    }
  }
#pragma unroll
  for (int j = 0; j < KEYS; ++j) {
    const int key = threadIdx.x + j * THREADS;
    if (key < n) parts[(static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * n + key] = sums[j];
  }
}

// A number of 10 bits, as tensor cores read it, and what it leaves of `x`.
__device__ uint2 in_two(float x) {
  uint32_t high, low;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(high) : "f"(x));
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(low) : "f"(x - __uint_as_float(high)));
  return make_uint2(high, low);
}

// acc [16, 8] += a [16, 8] times b [8, 8], a thread's parts.
__device__ void multiply(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

constexpr int SIXTEEN = 16;

// The same for sixteen heads in half types, with both convolutions on the tensor cores: tiles of sixteen keys by sixteen heads, of
// which a thread has keys g and g + 8 and heads 2t, 2t + 1, 8 + 2t, 9 + 2t, in the scores as in both results, so that nothing
// is exchanged between them. Numbers that do not go into 10 bits are multiplied in two parts. A warp has TILES tiles.
template <typename T, int TILES>
__device__ void column_sums_of_16(const T* scores, const float* weight1, const float* bias1, const float* weight2,
                                  const float* bias2, float* parts, int n) {
  __shared__ float tops[WARPS][SIXTEEN], totals[WARPS][SIXTEEN];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  // For each convolution, half of its inputs and half of its outputs: two weights in two parts.
  uint2 weight[2][2][2][2];
  float bias[2][2][2];
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    const float* w = c ? weight2 : weight1;
    const float* b = c ? bias2 : bias1;
#pragma unroll
    for (int out = 0; out < 2; ++out) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        bias[c][out][i] = b[out * 8 + 2 * t + i];
#pragma unroll
        for (int in = 0; in < 2; ++in) weight[c][in][out][i] = in_two(w[(out * 8 + g) * SIXTEEN + in * 8 + 2 * t + i]);
      }
    }
  }
  const T* picture = scores + static_cast<int64_t>(blockIdx.y) * SIXTEEN * n * n;
  const int first = blockIdx.x * GROUP, last = min(first + GROUP, n);
  float sums[TILES][2] = {};
  for (int q = first; q < last; ++q) {
    // By tile, half of the heads, and place in the tile: key g, g, g + 8, g + 8 of heads 2t, 2t + 1, 2t, 2t + 1.
    float x[TILES][2][4];
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int key = (tile * WARPS + warp) * 16 + i % 4 / 2 * 8 + g, head = i / 4 * 8 + 2 * t + i % 2;
        x[tile][i / 4][i % 4] = key < n ? number(picture[(static_cast<int64_t>(head) * n + q) * n + key]) : 0.f;
      }
    }
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
      float hidden[2][4], mixed[2][4];
#pragma unroll
      for (int out = 0; out < 2; ++out) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          hidden[out][i] = bias[0][out][i % 2];
          mixed[out][i] = bias[1][out][i % 2];
        }
      }
#pragma unroll
      for (int in = 0; in < 2; ++in) {
        // Half types go into 10 bits.
        const float(&v)[4] = x[tile][in];
        const uint32_t a[4] = {__float_as_uint(v[0]), __float_as_uint(v[2]), __float_as_uint(v[1]), __float_as_uint(v[3])};
#pragma unroll
        for (int out = 0; out < 2; ++out) {
          const uint2 w0 = weight[0][in][out][0], w1 = weight[0][in][out][1];
          multiply(hidden[out], a, w0.x, w1.x);
          multiply(hidden[out], a, w0.y, w1.y);
        }
      }
#pragma unroll
      for (int in = 0; in < 2; ++in) {
        uint32_t high[4], low[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint2 two = in_two(fmaxf(hidden[in][i / 2 + i % 2 * 2], 0.f));
          high[i] = two.x;
          low[i] = two.y;
        }
#pragma unroll
        for (int out = 0; out < 2; ++out) {
          const uint2 w0 = weight[1][in][out][0], w1 = weight[1][in][out][1];
          multiply(mixed[out], high, w0.x, w1.x);
          multiply(mixed[out], high, w0.y, w1.y);
          multiply(mixed[out], low, w0.x, w1.x);
        }
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) x[tile][i / 4][i % 4] = mixed[i / 4][i % 4];
    }
    const auto there = [&](int tile, int i) { return (tile * WARPS + warp) * 16 + i / 2 * 8 + g < n; };
    float total[2][2];
#pragma unroll
    for (int h = 0; h < 4; ++h) {
      float most = -INFINITY;
#pragma unroll
      for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
        for (int i = h % 2; i < 4; i += 2)
          if (there(tile, i)) most = fmaxf(most, x[tile][h / 2][i]);
      }
#pragma unroll
      for (int away = 4; away < 32; away *= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, away));
      if (g == 0) tops[warp][h / 2 * 8 + 2 * t + h % 2] = most;
    }
    __syncthreads();
#pragma unroll
    for (int h = 0; h < 4; ++h) {
      const int head = h / 2 * 8 + 2 * t + h % 2;
      float most = tops[0][head], sum = 0.f;
#pragma unroll
      for (int w = 1; w < WARPS; ++w) most = fmaxf(most, tops[w][head]);
#pragma unroll
      for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
        for (int i = h % 2; i < 4; i += 2) {
          float& v = x[tile][h / 2][i];
          v = there(tile, i) ? __expf(v - most) : 0.f;
          sum += v;
        }
      }
#pragma unroll
      for (int away = 4; away < 32; away *= 2) sum += __shfl_xor_sync(0xffffffff, sum, away);
      if (g == 0) totals[warp][head] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int h = 0; h < 4; ++h) {
      float sum = 0.f;
#pragma unroll
      for (int w = 0; w < WARPS; ++w) sum += totals[w][h / 2 * 8 + 2 * t + h % 2];
      total[h / 2][h % 2] = 1.f / (sum * SIXTEEN);
    }
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
      for (int i = 0; i < 8; ++i)
        sums[tile][i % 4 / 2] = fmaf(x[tile][i / 4][i % 4], total[i / 4][i % 2], sums[tile][i % 4 / 2]);
    }
  }
#pragma unroll
  for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float sum = sums[tile][i];
      sum += __shfl_xor_sync(0xffffffff, sum, 1);
      sum += __shfl_xor_sync(0xffffffff, sum, 2);
      const int key = (tile * WARPS + warp) * 16 + i * 8 + g;
      if (t == 0 && key < n) parts[(static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * n + key] = sum;
    }
  }
}

}  // namespace

#define COLUMN_SUMS(NAME, T, HEADS, KEYS)                                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                          \
      column_sums_##NAME##_##HEADS##_##KEYS(const T* scores, const float* weight1, const float* bias1,           \
                                            const float* weight2, const float* bias2, float* parts, int n) {     \
    column_sums<T, HEADS, KEYS>(scores, weight1, bias1, weight2, bias2, parts, n);                               \
  }
#define COLUMN_SUMS_OF(NAME, T) \
  COLUMN_SUMS(NAME, T, 6, 1)    \
  COLUMN_SUMS(NAME, T, 6, 3)    \
  COLUMN_SUMS(NAME, T, 12, 1)   \
  COLUMN_SUMS(NAME, T, 12, 3)   \
  COLUMN_SUMS(NAME, T, 16, 1)   \
  COLUMN_SUMS(NAME, T, 16, 3)   \
  COLUMN_SUMS(NAME, T, 16, 5)
COLUMN_SUMS_OF(f32, float)
COLUMN_SUMS_OF(f16, __half)
COLUMN_SUMS_OF(bf16, __nv_bfloat16)

#define SUMS_OF_16(NAME, T, TILES)                                                                               \
  extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                       \
      sums_of_16_##NAME##_##TILES(const T* scores, const float* weight1, const float* bias1,                     \
                                  const float* weight2, const float* bias2, float* parts, int n) {               \
    column_sums_of_16<T, TILES>(scores, weight1, bias1, weight2, bias2, parts, n);                               \
  }
#define ALL_SUMS_OF_16(NAME, T) \
  SUMS_OF_16(NAME, T, 2)        \
  SUMS_OF_16(NAME, T, 5)        \
  SUMS_OF_16(NAME, T, 6)
ALL_SUMS_OF_16(f16, __half)
ALL_SUMS_OF_16(bf16, __nv_bfloat16)

// parts [b, groups, n] to sums [b, n].
extern "C" __global__ void add_parts(const float* parts, float* sums, int groups, int n) {
  const int key = blockIdx.x * blockDim.x + threadIdx.x;
  if (key >= n) return;
  const float* from = parts + static_cast<int64_t>(blockIdx.y) * groups * n + key;
  float sum = 0.f;
#pragma unroll 8
  for (int g = 0; g < groups; ++g) sum += from[static_cast<int64_t>(g) * n];
  sums[static_cast<int64_t>(blockIdx.y) * n + key] = sum;
}

// For each picture the k tokens of the highest scores, of equals the first; the first `kept` tokens come before all others.
// rows [b, k]: their rows among all tokens of the batch, rising. from [b, n]: where each token lies among the chosen, or -1.
extern "C" __global__ void choose_tokens(const float* scores, uint32_t* rows, int32_t* from, int n, int k, int kept) {
  extern __shared__ float score[];
  int* chosen = reinterpret_cast<int*>(score + n);
  const int picture = blockIdx.x;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    const float s = scores[static_cast<int64_t>(picture) * n + i];
    score[i] = i < kept ? INFINITY : (isnan(s) ? -INFINITY : fminf(s, 3.4e38f));
  }
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    int before = 0;
    for (int j = 0; j < n; ++j) before += score[j] > score[i] || (score[j] == score[i] && j < i);
    chosen[i] = before < k;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    int place = 0;
    for (int j = 0; j < i; ++j) place += chosen[j];
    const int64_t at = static_cast<int64_t>(picture) * k + place;
    if (chosen[i]) rows[at] = picture * n + i;
    from[static_cast<int64_t>(picture) * n + i] = chosen[i] ? static_cast<int32_t>(at) : -1;
  }
}

// y = x [rows, words], with worked[from[row]] in the place of each row where from is not -1. Words of four bytes.
extern "C" __global__ void put_rows(const uint32_t* x, const uint32_t* worked, const int32_t* from, uint32_t* y, int words) {
  const int64_t row = blockIdx.x;
  const int32_t at = from[row];
  const uint32_t* source = at < 0 ? x + row * words : worked + static_cast<int64_t>(at) * words;
  for (int i = threadIdx.x; i < words; i += blockDim.x) y[row * words + i] = source[i];
}
