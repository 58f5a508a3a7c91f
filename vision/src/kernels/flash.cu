// Attention of a decoder's pass over many tokens, which are a chain (engine::model::card::wide): a block goes through a share of the
// cache with 64 rows of queries and keeps running maxima and sums (FlashAttention-2, Dao 2023, section 3.1).

#include "common.cuh"

namespace {

constexpr int SLOTS = 64, ROWS = 64, FOUR = 4, THREADS = 32 * FOUR;
constexpr float LOG2E = 1.44269504f;

// qkv [n, (heads + 2 kv) DIM]: queries are turned by their positions where they lie, keys and values [kv, capacity, DIM] get the new ones
// turned and as they are. A block has a token. state: entries held, then the new columns' positions.
template <typename T, int DIM>
__device__ void turn(T* qkv, const T* cos, const T* sin, T* keys, T* values, const uint32_t* state, int heads, int kv,
                     int capacity) {
  constexpr int HALF = DIM / 2, EIGHTS = HALF / 8;
  let_next_begin();
  after_others();
  const int token = blockIdx.x;
  const int64_t slot = state[0] + token, position = state[1 + token];
  T* row = qkv + static_cast<int64_t>(token) * (heads + 2 * kv) * DIM;
  for (int i = threadIdx.x; i < (heads + kv) * EIGHTS; i += blockDim.x) {
    const int head = i / EIGHTS, d = i % EIGHTS * 8;
    T* from = row + head * DIM + d;
    T* to = head < heads ? from : keys + ((head - heads) * static_cast<int64_t>(capacity) + slot) * DIM + d;
    const Eight<T> a = *reinterpret_cast<Eight<T>*>(from), b = *reinterpret_cast<Eight<T>*>(from + HALF);
    const Eight<T> c = *reinterpret_cast<const Eight<T>*>(cos + position * HALF + d);
    const Eight<T> s = *reinterpret_cast<const Eight<T>*>(sin + position * HALF + d);
    Eight<T> low, high;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      put(low.v + j, number(a.v[j]) * number(c.v[j]) - number(b.v[j]) * number(s.v[j]));
      put(high.v + j, number(b.v[j]) * number(c.v[j]) + number(a.v[j]) * number(s.v[j]));
    }
    *reinterpret_cast<Eight<T>*>(to) = low;
    *reinterpret_cast<Eight<T>*>(to + HALF) = high;
  }
  for (int i = threadIdx.x; i < kv * DIM / 8; i += blockDim.x) {
    const int head = i / (DIM / 8), d = i % (DIM / 8) * 8;
    *reinterpret_cast<Eight<T>*>(values + (head * static_cast<int64_t>(capacity) + slot) * DIM + d) =
        *reinterpret_cast<Eight<T>*>(row + (heads + kv + head) * DIM + d);
  }
}

__device__ void fetched(void* to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(there ? 16 : 0));
}
__device__ void all_asked() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT>
__device__ void arrived() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

__device__ uint32_t packed(float a, float b, __half) {
  const __half2 c = __floats2half2_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&c);
}
__device__ uint32_t packed(float a, float b, bf16) {
  const bf162 c = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&c);
}

// What a block knows of its rows: queries that share a key head, token by token. A warp has 16 of them, a thread two: `g` and `g + 8`.
struct Mine {
  int group, rows, first;
  __device__ int row(int high) const { return first + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + high * 8; }
  __device__ int token(int row) const { return min(row, rows - 1) / group; }
};

// out [n, heads DIM] of the queries `turn` left in qkv, over the keys and values in the cache. Blocks: shares of the cache, rows of queries,
// key heads. With one share a block writes what it mixed; with more, sums in f32, maxima (of scores times log2 e) and weights go to
// parts [kv, rows, shares, DIM + 2].
template <typename T, int DIM>
__device__ void flash(const T* qkv, const T* keys, const T* values, const uint32_t* state, float* parts, T* out, int heads,
                      int kv, int n, int capacity, float scale) {
  constexpr int RUNS = DIM / 32, PAIRS = DIM / 16;
  // Padded so that the threads of a warp read from different banks.
  __shared__ alignas(16) T key[SLOTS][DIM + 32];
  __shared__ alignas(16) T value[SLOTS][DIM + 8];
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, head = blockIdx.z, shares = gridDim.x;
  const Mine mine{heads / kv, heads / kv * n, static_cast<int>(blockIdx.y) * ROWS};
  let_next_begin();
  after_others();
  const int len = state[0], last = mine.token(mine.first + ROWS - 1), seen = len + last + 1;
  const int chunks = (seen + SLOTS - 1) / SLOTS, each = (chunks + shares - 1) / shares;
  const int from = blockIdx.x * each, until = min(from + each, chunks);
  const T* head_keys = keys + static_cast<int64_t>(head) * capacity * DIM;
  const T* head_values = values + static_cast<int64_t>(head) * capacity * DIM;
  const auto fetch = [&](auto& to, const T* rows, int chunk) {
    for (int i = threadIdx.x; i < SLOTS * DIM / 8; i += THREADS) {
      const int slot = i / (DIM / 8), d = i % (DIM / 8) * 8;
      const bool there = chunk * SLOTS + slot < seen;
      fetched(&to[slot][d], rows + (there ? chunk * SLOTS + slot : 0) * static_cast<int64_t>(DIM) + d, there);
    }
    all_asked();
  };
  if (from < until) {
    fetch(key, head_keys, from);
    fetch(value, head_values, from);
  }
  uint4 query[2][RUNS];
#pragma unroll
  for (int high = 0; high < 2; ++high) {
    const int row = min(mine.row(high), mine.rows - 1), token = row / mine.group;
    const T* of = qkv + static_cast<int64_t>(token) * (heads + 2 * kv) * DIM + (head * mine.group + row % mine.group) * DIM;
#pragma unroll
    for (int i = 0; i < RUNS; ++i) query[high][i] = *reinterpret_cast<const uint4*>(of + i * 32 + t * 8);
  }
  float mixed[DIM / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  const int tokens[2] = {mine.token(mine.row(0)), mine.token(mine.row(1))};
  for (int chunk = from; chunk < until; ++chunk) {
    arrived<1>();
    __syncthreads();
    float score[SLOTS / 8][4] = {};
#pragma unroll
    for (int tile = 0; tile < SLOTS / 8; ++tile) {
#pragma unroll
      for (int i = 0; i < RUNS; ++i) {
        const uint4 b = *reinterpret_cast<const uint4*>(&key[tile * 8 + g][i * 32 + t * 8]);
        multiply(score[tile], query[0][i].x, query[1][i].x, query[0][i].y, query[1][i].y, b.x, b.y, T());
        multiply(score[tile], query[0][i].z, query[1][i].z, query[0][i].w, query[1][i].w, b.z, b.w, T());
      }
    }
    __syncthreads();
    if (chunk + 1 < until) fetch(key, head_keys, chunk + 1);
    float now[2] = {top[0], top[1]};
#pragma unroll
    for (int tile = 0; tile < SLOTS / 8; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int slot = chunk * SLOTS + tile * 8 + 2 * t + i % 2;
        score[tile][i] = slot <= len + tokens[i / 2] ? score[tile][i] * (scale * LOG2E) : -INFINITY;
        now[i / 2] = fmaxf(now[i / 2], score[tile][i]);
      }
    }
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      now[high] = fmaxf(now[high], __shfl_xor_sync(0xffffffff, now[high], 1));
      now[high] = fmaxf(now[high], __shfl_xor_sync(0xffffffff, now[high], 2));
      // A row that saw nothing yet has neither sums nor a maximum.
      const float base = now[high] == -INFINITY ? 0.f : now[high], less = exp2f(top[high] - base);
      sum[high] *= less;
#pragma unroll
      for (int d = 0; d < DIM / 8; ++d) {
        mixed[d][high * 2] *= less;
        mixed[d][high * 2 + 1] *= less;
      }
#pragma unroll
      for (int tile = 0; tile < SLOTS / 8; ++tile) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          score[tile][high * 2 + i] = exp2f(score[tile][high * 2 + i] - base);
          sum[high] += score[tile][high * 2 + i];
        }
      }
      top[high] = now[high];
    }
    if (chunk + 1 < until) arrived<1>();
    else arrived<0>();
    __syncthreads();
#pragma unroll
    for (int slots = 0; slots < SLOTS; slots += 16) {
      const float(&low)[4] = score[slots / 8], (&high)[4] = score[slots / 8 + 1];
      const uint32_t a0 = packed(low[0], low[1], T()), a1 = packed(low[2], low[3], T());
      const uint32_t a2 = packed(high[0], high[1], T()), a3 = packed(high[2], high[3], T());
#pragma unroll
      for (int pair = 0; pair < PAIRS; ++pair) {
        const int block = lane / 8;
        uint32_t b[4];
        turned_over(b, &value[slots + block % 2 * 8 + lane % 8][pair * 16 + block / 2 * 8]);
        multiply(mixed[pair * 2], a0, a1, a2, a3, b[0], b[1], T());
        multiply(mixed[pair * 2 + 1], a0, a1, a2, a3, b[2], b[3], T());
      }
    }
    __syncthreads();
    if (chunk + 1 < until) fetch(value, head_values, chunk + 1);
  }
#pragma unroll
  for (int high = 0; high < 2; ++high) {
    sum[high] += __shfl_xor_sync(0xffffffff, sum[high], 1);
    sum[high] += __shfl_xor_sync(0xffffffff, sum[high], 2);
    const int row = mine.row(high);
    if (row >= mine.rows) continue;
    if (shares == 1) {
      T* to = out + static_cast<int64_t>(row / mine.group) * heads * DIM + (head * mine.group + row % mine.group) * DIM;
#pragma unroll
      for (int d = 0; d < DIM / 8; ++d) {
        put(to + d * 8 + 2 * t, mixed[d][high * 2] / sum[high]);
        put(to + d * 8 + 2 * t + 1, mixed[d][high * 2 + 1] / sum[high]);
      }
      continue;
    }
    float* to = parts + ((static_cast<int64_t>(head) * mine.rows + row) * shares + blockIdx.x) * (DIM + 2);
#pragma unroll
    for (int d = 0; d < DIM / 8; ++d)
      *reinterpret_cast<float2*>(to + d * 8 + 2 * t) = make_float2(mixed[d][high * 2], mixed[d][high * 2 + 1]);
    if (t == 0) *reinterpret_cast<float2*>(to + DIM) = make_float2(top[high], sum[high]);
  }
}

// Puts the parts of a row together; a block has one of a key head.
template <typename T, int DIM>
__device__ void join(const float* parts, T* out, int heads, int kv, int n, int shares) {
  let_next_begin();
  after_others();
  const int row = blockIdx.x, head = blockIdx.y, d = threadIdx.x, group = heads / kv;
  const float* from = parts + (static_cast<int64_t>(head) * group * n + row) * shares * (DIM + 2);
  float top = -INFINITY, mixed = 0.f, sum = 0.f;
  for (int i = 0; i < shares; ++i) top = fmaxf(top, from[i * (DIM + 2) + DIM]);
  for (int i = 0; i < shares; ++i) {
    const float* part = from + i * (DIM + 2);
    const float share = exp2f(part[DIM] - top);
    mixed = fmaf(share, part[d], mixed);
    sum = fmaf(share, part[DIM + 1], sum);
  }
  put(out + static_cast<int64_t>(row / group) * heads * DIM + (head * group + row % group) * DIM + d, mixed / sum);
}

}  // namespace

#define FLASH(NAME, T, DIM)                                                                                                 \
  extern "C" __global__ void __launch_bounds__(256)                                                                         \
      turn_##NAME##_##DIM(T* qkv, const T* cos, const T* sin, T* keys, T* values, const uint32_t* state, int heads, int kv, \
                          int capacity) {                                                                                   \
    turn<T, DIM>(qkv, cos, sin, keys, values, state, heads, kv, capacity);                                                  \
  }                                                                                                                         \
  extern "C" __global__ void __launch_bounds__(THREADS, 3)                                                                  \
      flash_##NAME##_##DIM(const T* qkv, const T* keys, const T* values, const uint32_t* state, float* parts, T* out,       \
                           int heads, int kv, int n, int capacity, float scale) {                                           \
    flash<T, DIM>(qkv, keys, values, state, parts, out, heads, kv, n, capacity, scale);                                     \
  }                                                                                                                         \
  extern "C" __global__ void __launch_bounds__(DIM)                                                                         \
      join_##NAME##_##DIM(const float* parts, T* out, int heads, int kv, int n, int shares) {                               \
    join<T, DIM>(parts, out, heads, kv, n, shares);                                                                         \
  }
#define OF(NAME, T)   \
  FLASH(NAME, T, 64)  \
  FLASH(NAME, T, 128)
OF(f16, __half)
OF(bf16, bf16)
