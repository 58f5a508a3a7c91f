// A decoder's step over a few tokens: products with weights that are read once, and attention over a cache
// (engine::model::card). Every number is summed in one order however many tokens there are, so that a draft is checked with the
// very numbers that plain decoding would have.

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace {

using bf16 = __nv_bfloat16;
using bf162 = __nv_bfloat162;

__device__ float number(__half x) { return __half2float(x); }
__device__ float number(bf16 x) { return __bfloat162float(x); }
__device__ float2 pair(uint32_t x, __half) { return __half22float2(*reinterpret_cast<__half2*>(&x)); }
__device__ float2 pair(uint32_t x, bf16) { return __bfloat1622float2(*reinterpret_cast<bf162*>(&x)); }
__device__ void put(__half* to, float x) { *to = __float2half(x); }
__device__ void put(bf16* to, float x) { *to = __float2bfloat16(x); }

__device__ uint32_t product(uint32_t a, uint32_t b, __half) {
  const __half2 c = __hmul2(*reinterpret_cast<__half2*>(&a), *reinterpret_cast<__half2*>(&b));
  return *reinterpret_cast<const uint32_t*>(&c);
}
__device__ uint32_t product(uint32_t a, uint32_t b, bf16) {
  const bf162 c = __hmul2(*reinterpret_cast<bf162*>(&a), *reinterpret_cast<bf162*>(&b));
  return *reinterpret_cast<const uint32_t*>(&c);
}

// acc [16 rows, 8 tokens] += a [16, 16] times b [16, 8], a thread's parts.
__device__ void multiply(float (&acc)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1,
                         __half) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ void multiply(float (&acc)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1,
                         bf16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ uint4 streamed(const uint4* from) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(from));
  return v;
}

// The kernel after this one may begin with what does not depend on it; `after_others` waits for those before.
__device__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ void after_others() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

constexpr int WARPS = 8;
// Steps whose weights a thread reads at a time, and steps of a warp that lie together in a row.
constexpr int UNROLL = 4;
constexpr int RUN = 4;

// Products of one step, 32 numbers of `in`, with two rows of W a thread.
template <typename T, int TILES>
__device__ void step_of(const T* x, const T* gain, uint4 w0, uint4 w1, int in, int n, int at, float (&acc)[TILES][4],
                        float (&square)[TILES]) {
  const int g = threadIdx.x % 32 / 4;
  uint4 gains;
  if (gain) gains = *reinterpret_cast<const uint4*>(gain + at);
#pragma unroll
  for (int tokens = 0; tokens < TILES; ++tokens) {
    const int token = tokens * 8 + g;
    uint4 b = make_uint4(0, 0, 0, 0);
    if (token < n) b = *reinterpret_cast<const uint4*>(x + static_cast<int64_t>(token) * in + at);
    if (gain) {
      const uint32_t parts[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 v = pair(parts[i], T());
        square[tokens] = fmaf(v.x, v.x, fmaf(v.y, v.y, square[tokens]));
      }
      b.x = product(b.x, gains.x, T());
      b.y = product(b.y, gains.y, T());
      b.z = product(b.z, gains.z, T());
      b.w = product(b.w, gains.w, T());
    }
    multiply(acc[tokens], w0.x, w1.x, w0.y, w1.y, b.x, b.y, T());
    multiply(acc[tokens], w0.z, w1.z, w0.w, w1.w, b.z, b.w, T());
  }
}

// y [n, out] = add + scale * (norm(x) W^T + bias) for x [n, in], W [out, in]; without `gain` x is not normalised, `bias` and
// `add` may be absent. GATED: W [2 out, in] is gates over ups, y = silu(gate) * up. A block has 16 rows of W (8 gates and
// their ups), its warps share out `in`; TILES times 8 tokens. Neighbouring numbers of a row are what one thread of the
// tensor core's tile holds: the order of `in` within a product is free as long as both sides have the same. Warps take turns along a
// row, so that what a block reads at a time lies together; the first weights are read while the kernel before still runs.
template <typename T, int TILES, bool GATED>
__device__ void linear(const T* x, const T* gain, const T* weight, const T* bias, const T* add, T* y, int in, int out, int n,
                       float eps, float scale) {
  __shared__ float partial[WARPS][TILES][128];
  __shared__ float squares[WARPS][TILES * 8];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int tile = blockIdx.x * (GATED ? 8 : 16);
  const int row0 = min(tile + g, out - 1), row1 = GATED ? out + row0 : min(tile + g + 8, out - 1);
  // A warp takes RUN steps of 32 numbers in each turn.
  const int steps = in / 32, turns = steps / (RUN * WARPS), rest = steps - turns * RUN * WARPS;
  const int count = turns * RUN + min(max(rest - warp * RUN, 0), RUN), whole = count / UNROLL * UNROLL;
  const auto place = [&](int i) { return ((i / RUN * WARPS + warp) * RUN + i % RUN) * 32; };
  const T* a0 = weight + static_cast<int64_t>(row0) * in + t * 8;
  const T* a1 = weight + static_cast<int64_t>(row1) * in + t * 8;
  float acc[TILES][4] = {}, square[TILES] = {};
  let_next_begin();
  uint4 w0[UNROLL], w1[UNROLL];
  if (whole > 0) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      w0[u] = streamed(reinterpret_cast<const uint4*>(a0 + place(u)));
      w1[u] = streamed(reinterpret_cast<const uint4*>(a1 + place(u)));
    }
  }
  after_others();
  for (int i = 0; i < whole; i += UNROLL) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u)
      step_of<T, TILES>(x, gain, w0[u], w1[u], in, n, place(i + u) + t * 8, acc, square);
    if (i + UNROLL < whole) {
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) {
        w0[u] = streamed(reinterpret_cast<const uint4*>(a0 + place(i + UNROLL + u)));
        w1[u] = streamed(reinterpret_cast<const uint4*>(a1 + place(i + UNROLL + u)));
      }
    }
  }
  for (int i = whole; i < count; ++i) {
    const uint4 last0 = streamed(reinterpret_cast<const uint4*>(a0 + place(i)));
    const uint4 last1 = streamed(reinterpret_cast<const uint4*>(a1 + place(i)));
    step_of<T, TILES>(x, gain, last0, last1, in, n, place(i) + t * 8, acc, square);
  }
#pragma unroll
  for (int tokens = 0; tokens < TILES; ++tokens) {
    partial[warp][tokens][g * 8 + 2 * t] = acc[tokens][0];
    partial[warp][tokens][g * 8 + 2 * t + 1] = acc[tokens][1];
    partial[warp][tokens][64 + g * 8 + 2 * t] = acc[tokens][2];
    partial[warp][tokens][64 + g * 8 + 2 * t + 1] = acc[tokens][3];
    float s = square[tokens];
    s += __shfl_xor_sync(0xffffffff, s, 1);
    s += __shfl_xor_sync(0xffffffff, s, 2);
    if (t == 0) squares[warp][tokens * 8 + g] = s;
  }
  __syncthreads();
  constexpr int ROWS = GATED ? 8 : 16;
  for (int i = threadIdx.x; i < TILES * ROWS * 8; i += WARPS * 32) {
    const int tokens = i / (ROWS * 8), place = i % (ROWS * 8), row = tile + place / 8, token = tokens * 8 + place % 8;
    if (row >= out || token >= n) continue;
    float sum = 0.f, up = 0.f, square = 0.f;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
      sum += partial[w][tokens][place];
      if (GATED) up += partial[w][tokens][64 + place];
      square += squares[w][token];
    }
    const float inverse = gain ? rsqrtf(square / in + eps) : 1.f;
    sum *= inverse;
    if (bias) sum += number(bias[row]);
    if (GATED) {
      up *= inverse;
      if (bias) up += number(bias[out + row]);
      sum = sum / (1.f + __expf(-sum)) * up;
    }
    sum *= scale;
    const int64_t at = static_cast<int64_t>(token) * out + row;
    if (add) sum += number(add[at]);
    put(y + at, sum);
  }
}

constexpr int CHUNK = 64;

// A number of a head turned by its position: halves belong together.
template <typename T, int DIM>
__device__ float turned(const T* head, const T* cos, const T* sin, int64_t position, int d) {
  constexpr int HALF = DIM / 2;
  const int i = d % HALF;
  const float c = number(cos[position * HALF + i]), s = number(sin[position * HALF + i]);
  const float a = number(head[i]), b = number(head[i + HALF]);
  return d < HALF ? a * c - b * s : b * c + a * s;
}

// state: entries held; for each new column its position (from 1), and the new columns that it sees as bits (from 33).
// qkv [n, (heads + 2 kv) DIM]; keys and values [kv, capacity, DIM], to which the new ones are appended; out [n, heads DIM].
// A block has CHUNK slots of a key head, for ROWS queries at a time; the last block of a head puts the parts
// [kv, rows, chunks, DIM + 2] together. Entries that were there before are read ahead of the kernel before.
template <typename T, int DIM, int ROWS>
__device__ void attend(const T* qkv, const T* cos, const T* sin, T* keys, T* values, const uint32_t* state, float* parts,
                       uint32_t* tickets, T* out, int heads, int kv, int n, int capacity, float scale) {
  constexpr int THREADS = 128, LANES = 8, WIDE = DIM / LANES, ROUNDS = CHUNK / 16;
  // For values: threads a row, and rows a thread.
  constexpr int ACROSS = DIM / 8, DOWN = THREADS / ACROSS, MINE = CHUNK / DOWN;
  __shared__ float query[ROWS][DIM];
  __shared__ float weight[ROWS][CHUNK];
  __shared__ float mixed[THREADS / 32][ROWS][DIM];
  __shared__ float most[ROWS], whole[ROWS];
  __shared__ bool last;
  let_next_begin();
  const int len = state[0], total = len + n, chunks = (total + CHUNK - 1) / CHUNK;
  const int chunk = blockIdx.x, head = blockIdx.y, group = heads / kv, rows = group * n;
  if (chunk >= chunks) return;
  const int start = chunk * CHUNK, row_width = (heads + 2 * kv) * DIM;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = lane % LANES;
  const int across = threadIdx.x % ACROSS, down = threadIdx.x / ACROSS;
  T* head_keys = keys + static_cast<int64_t>(head) * capacity * DIM;
  T* head_values = values + static_cast<int64_t>(head) * capacity * DIM;
  uint4 key[ROUNDS][WIDE / 8], value[MINE];
  const auto read = [&] {
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
      const int slot = min(start + round * 16 + warp * 4 + lane / LANES, total - 1);
      const uint4* from = reinterpret_cast<const uint4*>(head_keys + static_cast<int64_t>(slot) * DIM);
#pragma unroll
      for (int i = 0; i < WIDE / 8; ++i) key[round][i] = from[part + i * LANES];
    }
#pragma unroll
    for (int i = 0; i < MINE; ++i) {
      const int slot = min(start + down + i * DOWN, total - 1);
      value[i] = reinterpret_cast<const uint4*>(head_values + static_cast<int64_t>(slot) * DIM)[across];
    }
  };
  const bool fresh = start + CHUNK > len;
  if (!fresh) read();
  after_others();
  if (fresh) {
    for (int i = max(start - len, 0); i < min(start + CHUNK - len, n); ++i) {
      const T* column = qkv + static_cast<int64_t>(i) * row_width + (heads + head) * DIM;
      for (int d = threadIdx.x; d < DIM; d += THREADS) {
        const int64_t at = static_cast<int64_t>(len + i) * DIM + d;
        put(head_keys + at, turned<T, DIM>(column, cos, sin, state[1 + i], d));
        head_values[at] = column[kv * DIM + d];
      }
    }
    __syncthreads();
    read();
  }
  float* head_parts = parts + static_cast<int64_t>(head) * rows * gridDim.x * (DIM + 2);
  for (int first = 0; first < rows; first += ROWS) {
    for (int i = threadIdx.x; i < ROWS * DIM; i += THREADS) {
      const int r = first + i / DIM, token = r / group;
      query[i / DIM][i % DIM] =
          r < rows ? turned<T, DIM>(qkv + static_cast<int64_t>(token) * row_width + (head * group + r % group) * DIM, cos,
                                    sin, state[1 + token], i % DIM) * scale
                   : 0.f;
    }
    __syncthreads();
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
      const int j = round * 16 + warp * 4 + lane / LANES, slot = start + j;
      float wide[WIDE];
#pragma unroll
      for (int i = 0; i < WIDE / 8; ++i) {
        const uint32_t words[4] = {key[round][i].x, key[round][i].y, key[round][i].z, key[round][i].w};
#pragma unroll
        for (int w = 0; w < 4; ++w) {
          const float2 two = pair(words[w], T());
          wide[i * 8 + 2 * w] = two.x;
          wide[i * 8 + 2 * w + 1] = two.y;
        }
      }
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        float dot = 0.f;
#pragma unroll
        for (int i = 0; i < WIDE; ++i) dot = fmaf(query[r][(part + i / 8 * LANES) * 8 + i % 8], wide[i], dot);
#pragma unroll
        for (int away = LANES / 2; away > 0; away /= 2) dot += __shfl_xor_sync(0xffffffff, dot, away);
        if (part == r) {
          const int token = min((first + r) / group, n - 1);
          const bool seen = slot < len || (slot < total && (state[33 + token] >> (slot - len) & 1));
          weight[r][j] = seen ? dot : -INFINITY;
        }
      }
    }
    __syncthreads();
    for (int r = warp; r < ROWS; r += THREADS / 32) {
      const float a = weight[r][lane], b = weight[r][lane + 32];
      float top = fmaxf(a, b);
      for (int away = 16; away > 0; away /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, away));
      const float base = top == -INFINITY ? 0.f : top;
      const float ea = __expf(a - base), eb = __expf(b - base);
      float sum = ea + eb;
      for (int away = 16; away > 0; away /= 2) sum += __shfl_xor_sync(0xffffffff, sum, away);
      weight[r][lane] = ea;
      weight[r][lane + 32] = eb;
      if (lane == 0) {
        most[r] = top;
        whole[r] = sum;
      }
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      float sum[8] = {};
#pragma unroll
      for (int i = 0; i < MINE; ++i) {
        const float share = weight[r][down + i * DOWN];
        const uint32_t words[4] = {value[i].x, value[i].y, value[i].z, value[i].w};
#pragma unroll
        for (int w = 0; w < 4; ++w) {
          const float2 two = pair(words[w], T());
          sum[2 * w] = fmaf(share, two.x, sum[2 * w]);
          sum[2 * w + 1] = fmaf(share, two.y, sum[2 * w + 1]);
        }
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int away = ACROSS; away < 32; away *= 2) sum[i] += __shfl_xor_sync(0xffffffff, sum[i], away);
        if (lane < ACROSS) mixed[warp][r][across * 8 + i] = sum[i];
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * (DIM + 2); i += THREADS) {
      const int r = i / (DIM + 2), place = i % (DIM + 2);
      if (first + r >= rows) continue;
      float v = place == DIM ? most[r] : whole[r];
      if (place < DIM) v = (mixed[0][r][place] + mixed[1][r][place]) + (mixed[2][r][place] + mixed[3][r][place]);
      head_parts[(static_cast<int64_t>(first + r) * gridDim.x + chunk) * (DIM + 2) + place] = v;
    }
    __syncthreads();
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(tickets + head, 1u) + 1 == static_cast<uint32_t>(chunks);
    if (last) tickets[head] = 0;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  for (int i = threadIdx.x; i < rows * DIM; i += THREADS) {
    const int r = i / DIM, d = i % DIM;
    const float* row = head_parts + static_cast<int64_t>(r) * gridDim.x * (DIM + 2);
    float top = -INFINITY;
    for (int c = 0; c < chunks; ++c) top = fmaxf(top, row[c * (DIM + 2) + DIM]);
    float sum = 0.f, norm = 0.f;
#pragma unroll 4
    for (int c = 0; c < chunks; ++c) {
      const float* from = row + c * (DIM + 2);
      const float share = from[DIM] == -INFINITY ? 0.f : __expf(from[DIM] - top);
      sum = fmaf(share, from[d], sum);
      norm = fmaf(share, from[DIM + 1], norm);
    }
    put(out + static_cast<int64_t>(r / group) * heads * DIM + (head * group + r % group) * DIM + d, sum / norm);
  }
}

}  // namespace

#define LINEAR(NAME, T, TILES, BLOCKS)                                                                                      \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS)                                                          \
      linear_##NAME##_##TILES(const T* x, const T* gain, const T* weight, const T* bias, const T* add, T* y, int in,        \
                              int out, int n, float eps, float scale) {                                                     \
    linear<T, TILES, false>(x, gain, weight, bias, add, y, in, out, n, eps, scale);                                         \
  }                                                                                                                         \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS)                                                          \
      gated_##NAME##_##TILES(const T* x, const T* gain, const T* weight, const T* bias, const T* add, T* y, int in,         \
                             int out, int n, float eps, float scale) {                                                      \
    linear<T, TILES, true>(x, gain, weight, bias, add, y, in, out, n, eps, scale);                                          \
  }
#define ATTEND(NAME, T, DIM, ROWS, BLOCKS)                                                                                  \
  extern "C" __global__ void __launch_bounds__(128, BLOCKS)                                                                 \
      attend_##NAME##_##DIM##_##ROWS(const T* qkv, const T* cos, const T* sin, T* keys, T* values, const uint32_t* state,   \
                                     float* parts, uint32_t* tickets, T* out, int heads, int kv, int n, int capacity,       \
                                     float scale) {                                                                         \
    attend<T, DIM, ROWS>(qkv, cos, sin, keys, values, state, parts, tickets, out, heads, kv, n, capacity, scale);           \
  }
#define OF(NAME, T)           \
  LINEAR(NAME, T, 1, 3)       \
  LINEAR(NAME, T, 2, 2)       \
  LINEAR(NAME, T, 4, 2)       \
  ATTEND(NAME, T, 64, 1, 5)   \
  ATTEND(NAME, T, 64, 2, 4)   \
  ATTEND(NAME, T, 64, 4, 4)   \
  ATTEND(NAME, T, 64, 8, 4)   \
  ATTEND(NAME, T, 128, 1, 3)  \
  ATTEND(NAME, T, 128, 2, 3)  \
  ATTEND(NAME, T, 128, 4, 3)  \
  ATTEND(NAME, T, 128, 8, 3)
OF(f16, __half)
OF(bf16, bf16)
