// Between the matrix products of a decoder's pass over many tokens (engine::model::card::wide), each in one sweep: norms, biases,
// gates. Eight numbers of a half type a thread.

#include "common.cuh"

namespace {

// y [rows, width] = x / root mean square of its row * gain; a block has a row.
template <typename T>
__device__ void norm(const T* x, const T* gain, T* y, int width, float eps) {
  __shared__ float parts[32];
  let_next_begin();
  after_others();
  const T* row = x + static_cast<int64_t>(blockIdx.x) * width;
  float square = 0.f;
  for (int at = threadIdx.x * WIDE; at < width; at += blockDim.x * WIDE) {
    const Eight<T> a = eight(row + at);
#pragma unroll
    for (int i = 0; i < WIDE; ++i) square = fmaf(number(a.v[i]), number(a.v[i]), square);
  }
#pragma unroll
  for (int away = 16; away > 0; away /= 2) square += __shfl_xor_sync(0xffffffff, square, away);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = square;
  __syncthreads();
  square = 0.f;
  for (int w = 0; w < static_cast<int>(blockDim.x) / 32; ++w) square += parts[w];
  const float inverse = rsqrtf(square / width + eps);
  T* to = y + static_cast<int64_t>(blockIdx.x) * width;
  for (int at = threadIdx.x * WIDE; at < width; at += blockDim.x * WIDE) {
    const Eight<T> a = eight(row + at), b = eight(gain + at);
    Eight<T> out;
#pragma unroll
    for (int i = 0; i < WIDE; ++i) put(out.v + i, number(a.v[i]) * inverse * number(b.v[i]));
    *reinterpret_cast<Eight<T>*>(to + at) = out;
  }
}

// z [rows, width] = silu(y[.., ..width]) * y[.., width..], for y [rows, 2 width].
template <typename T>
__device__ void gate(const T* y, T* z, int64_t count, int width) {
  let_next_begin();
  after_others();
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * WIDE;
  if (at >= count) return;
  const int64_t from = at / width * 2 * width + at % width;
  const Eight<T> a = eight(y + from), b = eight(y + from + width);
  Eight<T> out;
#pragma unroll
  for (int i = 0; i < WIDE; ++i) {
    const float g = number(a.v[i]);
    put(out.v + i, g / (1.f + __expf(-g)) * number(b.v[i]));
  }
  *reinterpret_cast<Eight<T>*>(z + at) = out;
}

// y [rows, width] += scale * bias
template <typename T>
__device__ void shift(T* y, const T* bias, int64_t count, int width, float scale) {
  let_next_begin();
  after_others();
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * WIDE;
  if (at >= count) return;
  const Eight<T> a = eight(y + at), b = eight(bias + at % width);
  Eight<T> out;
#pragma unroll
  for (int i = 0; i < WIDE; ++i) put(out.v + i, fmaf(scale, number(b.v[i]), number(a.v[i])));
  *reinterpret_cast<Eight<T>*>(y + at) = out;
}

}  // namespace

#define OF(NAME, T)                                                                                            \
  extern "C" __global__ void norm_##NAME(const T* x, const T* gain, T* y, int width, float eps) {              \
    norm(x, gain, y, width, eps);                                                                              \
  }                                                                                                            \
  extern "C" __global__ void gate_##NAME(const T* y, T* z, int64_t count, int width) { gate(y, z, count, width); } \
  extern "C" __global__ void shift_##NAME(T* y, const T* bias, int64_t count, int width, float scale) {        \
    shift(y, bias, count, width, scale);                                                                       \
  }
OF(f16, __half)
OF(bf16, bf16)
