// What stands between the matrix products of a vision tower (vision::encoder::card), each in one sweep: biases, activations,
// residuals, heads apart and together. Eight numbers of a half type a thread.

#include "common.cuh"

namespace {

__device__ float activated(float x, int act) {
  // Quick, exact, through tanh, as `Activation` has them.
  if (act == 0) return x / (1.f + __expf(-1.702f * x));
  if (act == 1) return 0.5f * x * (1.f + erff(x * 0.70710678f));
  return 0.5f * x * (1.f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
}

// z [rows, width] = act(y + bias)
template <typename T>
__device__ void activate(const T* y, const T* bias, T* z, int64_t count, int width, int act) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * WIDE;
  if (at >= count) return;
  const Eight<T> a = eight(y + at), b = eight(bias + at % width);
  Eight<T> out;
#pragma unroll
  for (int i = 0; i < WIDE; ++i) put(out.v + i, activated(number(a.v[i]) + number(b.v[i]), act));
  *reinterpret_cast<Eight<T>*>(z + at) = out;
}

// z [rows, width] = x + (y + bias)
template <typename T>
__device__ void add(const T* y, const T* bias, const T* x, T* z, int64_t count, int width) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * WIDE;
  if (at >= count) return;
  const Eight<T> a = eight(y + at), b = eight(bias + at % width), c = eight(x + at);
  Eight<T> out;
#pragma unroll
  for (int i = 0; i < WIDE; ++i) put(out.v + i, number(c.v[i]) + (number(a.v[i]) + number(b.v[i])));
  *reinterpret_cast<Eight<T>*>(z + at) = out;
}

// z [3, b, heads, n, dim] = y [b, n, 3, heads, dim] + bias [3, heads, dim], the first third times `scale`
template <typename T>
__device__ void split(const T* y, const T* bias, T* z, int64_t count, int n, int heads, int dim, float scale) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * WIDE;
  if (at >= count) return;
  const int width = heads * dim;
  const int column = at % (3 * width), part = column / width, head = column % width / dim, d = column % dim;
  const int64_t row = at / (3 * width), picture = row / n, token = row % n;
  const Eight<T> a = eight(y + at), b = eight(bias + column);
  const float factor = part == 0 ? scale : 1.f;
  Eight<T> out;
#pragma unroll
  for (int i = 0; i < WIDE; ++i) put(out.v + i, (number(a.v[i]) + number(b.v[i])) * factor);
  const int64_t pictures = count / (3 * static_cast<int64_t>(width) * n);
  *reinterpret_cast<Eight<T>*>(z + (((part * pictures + picture) * heads + head) * n + token) * dim + d) = out;
}

// z [b, n, heads, dim] = y [b, heads, n, dim]
template <typename T>
__device__ void merge(const T* y, T* z, int64_t count, int n, int heads, int dim) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * WIDE;
  if (at >= count) return;
  const int d = at % dim, token = at / dim % n;
  const int64_t head = at / dim / n % heads, picture = at / dim / n / heads;
  *reinterpret_cast<Eight<T>*>(z + ((picture * n + token) * heads + head) * dim + d) = eight(y + at);
}

}  // namespace

#define OF(NAME, T)                                                                                                        \
  extern "C" __global__ void activate_##NAME(const T* y, const T* bias, T* z, int64_t count, int width, int act) {         \
    activate(y, bias, z, count, width, act);                                                                               \
  }                                                                                                                        \
  extern "C" __global__ void add_##NAME(const T* y, const T* bias, const T* x, T* z, int64_t count, int width) {           \
    add(y, bias, x, z, count, width);                                                                                      \
  }                                                                                                                        \
  extern "C" __global__ void split_##NAME(const T* y, const T* bias, T* z, int64_t count, int n, int heads, int dim,       \
                                          float scale) {                                                                   \
    split(y, bias, z, count, n, heads, dim, scale);                                                                        \
  }                                                                                                                        \
  extern "C" __global__ void merge_##NAME(const T* y, T* z, int64_t count, int n, int heads, int dim) {                    \
    merge(y, z, count, n, heads, dim);                                                                                     \
  }
OF(f16, __half)
OF(bf16, bf16)
