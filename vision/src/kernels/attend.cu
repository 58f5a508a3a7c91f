// Attention of a decoder's step over a cache (engine::model::card). Every number is summed in one order however many new columns
// there are.

#include "common.cuh"

namespace {

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

// Of the new columns: their positions lie from 1 on in `state`, what each sees of them, as bits, from 1 + FEW (the first 32) and
// 1 + 2 FEW on (the others).
constexpr int FEW = 64;

// Whether new column `token` sees new column `fresh`.
__device__ bool sees(const uint32_t* state, int token, int fresh) {
  return state[1 + FEW + (fresh < 32 ? 0 : FEW) + token] >> (fresh % 32) & 1;
}

// Puts the parts of a row together: a number of what it mixed.
template <int DIM>
__device__ float together(const float* row, int chunks, int d) {
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
  return sum / norm;
}

// Rows of queries of a block.
constexpr int SHARE = 32;

__device__ void copied(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))), "l"(from));
}

// state: entries held; then what is told of the new columns. qkv [n, (heads + 2 kv) DIM]; keys and values [kv, capacity, DIM],
// to which the new ones are appended; out [n, heads DIM]. A block has CHUNK slots of a key head, for SHARE of its rows of queries, TILES times
// eight at a time: scores are keys [16 slots a warp] times queries, what is mixed is values turned over [DIM / 4 a warp] times
// weights. Blocks with other rows write the same keys and values. The last block of a head puts the parts [kv, rows, chunks, DIM + 2]
// together; without `tickets` that is left to another kernel. Entries that were there before are read ahead of the kernel before.
template <typename T, int DIM, int TILES>
__device__ void attend(const T* qkv, const T* cos, const T* sin, T* keys, T* values, const uint32_t* state, float* parts,
                       uint32_t* tickets, T* out, int heads, int kv, int n, int capacity, float scale) {
  constexpr int THREADS = 128, WARPS = THREADS / 32, ROWS = 8 * TILES, RUNS = DIM / 32, MINE = DIM / WARPS / 16;
  // Padded so that the threads of a warp read from different banks.
  __shared__ alignas(16) T query[ROWS][DIM + 32];
  __shared__ alignas(16) T value[CHUNK][DIM + 8];
  __shared__ alignas(16) T share[ROWS][CHUNK + 8];
  __shared__ float tops[WARPS][ROWS], sums[WARPS][ROWS];
  __shared__ bool last;
  let_next_begin();
  const int len = state[0], total = len + n, chunks = (total + CHUNK - 1) / CHUNK;
  const int chunk = blockIdx.x, head = blockIdx.y, group = heads / kv, rows = group * n;
  if (chunk >= chunks) return;
  const int start = chunk * CHUNK, row_width = (heads + 2 * kv) * DIM, until = min(rows, (static_cast<int>(blockIdx.z) + 1) * SHARE);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  T* head_keys = keys + static_cast<int64_t>(head) * capacity * DIM;
  T* head_values = values + static_cast<int64_t>(head) * capacity * DIM;
  uint4 key[2][RUNS];
  const auto read = [&] {
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      const int64_t slot = min(start + warp * 16 + high * 8 + g, total - 1);
#pragma unroll
      for (int i = 0; i < RUNS; ++i) key[high][i] = *reinterpret_cast<const uint4*>(head_keys + slot * DIM + i * 32 + t * 8);
    }
    for (int i = threadIdx.x; i < CHUNK * DIM / 8; i += THREADS) {
      const int row = i / (DIM / 8), column = i % (DIM / 8) * 8;
      copied(&value[row][column], head_values + static_cast<int64_t>(min(start + row, total - 1)) * DIM + column);
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
  for (int first = blockIdx.z * SHARE; first < until; first += ROWS) {
    for (int i = threadIdx.x; i < ROWS * DIM; i += THREADS) {
      const int r = first + i / DIM, token = r / group;
      const T* of = qkv + static_cast<int64_t>(token) * row_width + (head * group + r % group) * DIM;
      put(&query[i / DIM][i % DIM], r < rows ? turned<T, DIM>(of, cos, sin, state[1 + token], i % DIM) : 0.f);
    }
    __syncthreads();
    float score[TILES][4] = {};
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
      for (int i = 0; i < RUNS; ++i) {
        const uint4 b = *reinterpret_cast<const uint4*>(&query[tile * 8 + g][i * 32 + t * 8]);
        multiply(score[tile], key[0][i].x, key[1][i].x, key[0][i].y, key[1][i].y, b.x, b.y, T());
        multiply(score[tile], key[0][i].z, key[1][i].z, key[0][i].w, key[1][i].w, b.z, b.w, T());
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int slot = start + warp * 16 + i / 2 * 8 + g, token = min((first + tile * 8 + 2 * t + i % 2) / group, n - 1);
        const bool seen = slot < len || (slot < total && sees(state, token, slot - len));
        score[tile][i] = seen ? score[tile][i] * scale : -INFINITY;
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float top = fmaxf(score[tile][i], score[tile][i + 2]);
#pragma unroll
        for (int away = 4; away < 32; away *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, away));
        if (g == 0) tops[warp][tile * 8 + 2 * t + i] = top;
      }
    }
    __syncthreads();
    const auto top_of = [&](int row) {
      float top = tops[0][row];
#pragma unroll
      for (int w = 1; w < WARPS; ++w) top = fmaxf(top, tops[w][row]);
      return top;
    };
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = tile * 8 + 2 * t + i;
        const float top = top_of(row), base = top == -INFINITY ? 0.f : top;
        const float low = __expf(score[tile][i] - base), high = __expf(score[tile][i + 2] - base);
        put(&share[row][warp * 16 + g], low);
        put(&share[row][warp * 16 + 8 + g], high);
        float sum = low + high;
#pragma unroll
        for (int away = 4; away < 32; away *= 2) sum += __shfl_xor_sync(0xffffffff, sum, away);
        if (g == 0) sums[warp][row] = sum;
      }
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    float mixed[MINE][TILES][4] = {};
#pragma unroll
    for (int slots = 0; slots < CHUNK; slots += 16) {
#pragma unroll
      for (int mine = 0; mine < MINE; ++mine) {
        const int block = lane / 8, d = (warp * MINE + mine) * 16;
        uint32_t a[4];
        turned_over(a, &value[slots + block / 2 * 8 + lane % 8][d + block % 2 * 8]);
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
          const uint32_t* b = reinterpret_cast<const uint32_t*>(&share[tile * 8 + g][slots + 2 * t]);
          multiply(mixed[mine][tile], a[0], a[1], a[2], a[3], b[0], b[4], T());
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = first + tile * 8 + 2 * t + i % 2;
        if (r >= rows) continue;
        float* to = head_parts + (static_cast<int64_t>(r) * gridDim.x + chunk) * (DIM + 2);
#pragma unroll
        for (int mine = 0; mine < MINE; ++mine) to[(warp * MINE + mine) * 16 + i / 2 * 8 + g] = mixed[mine][tile][i];
      }
    }
    for (int row = threadIdx.x; row < ROWS; row += THREADS) {
      if (first + row >= rows) break;
      float* to = head_parts + (static_cast<int64_t>(first + row) * gridDim.x + chunk) * (DIM + 2) + DIM;
      to[0] = top_of(row);
      to[1] = (sums[0][row] + sums[1][row]) + (sums[2][row] + sums[3][row]);
    }
    __syncthreads();
  }
  if (!tickets) return;
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
    const float whole_row = together<DIM>(head_parts + static_cast<int64_t>(r) * gridDim.x * (DIM + 2), chunks, d);
    put(out + static_cast<int64_t>(r / group) * heads * DIM + (head * group + r % group) * DIM + d, whole_row);
  }
}

// The same for many rows: a block has one of them, of one key head. `most` chunks lie in memory for each row.
template <typename T, int DIM>
__device__ void combine(const uint32_t* state, const float* parts, T* out, int heads, int kv, int n, int most) {
  const int r = blockIdx.x, head = blockIdx.y, d = threadIdx.x, group = heads / kv, rows = group * n;
  let_next_begin();
  const int chunks = (static_cast<int>(state[0]) + n + CHUNK - 1) / CHUNK;
  after_others();
  const float* row = parts + (static_cast<int64_t>(head) * rows + r) * most * (DIM + 2);
  put(out + static_cast<int64_t>(r / group) * heads * DIM + (head * group + r % group) * DIM + d, together<DIM>(row, chunks, d));
}

}  // namespace

#define ATTEND(NAME, T, DIM, TILES, BLOCKS)                                                                                 \
  extern "C" __global__ void __launch_bounds__(128, BLOCKS)                                                                 \
      attend_##NAME##_##DIM##_##TILES(const T* qkv, const T* cos, const T* sin, T* keys, T* values, const uint32_t* state,  \
                                      float* parts, uint32_t* tickets, T* out, int heads, int kv, int n, int capacity,      \
                                      float scale) {                                                                        \
    attend<T, DIM, TILES>(qkv, cos, sin, keys, values, state, parts, tickets, out, heads, kv, n, capacity, scale);          \
  }
#define COMBINE(NAME, T, DIM)                                                                                               \
  extern "C" __global__ void __launch_bounds__(DIM)                                                                         \
      combine_##NAME##_##DIM(const uint32_t* state, const float* parts, T* out, int heads, int kv, int n, int most) {       \
    combine<T, DIM>(state, parts, out, heads, kv, n, most);                                                                 \
  }
#define OF(NAME, T)           \
  ATTEND(NAME, T, 64, 1, 5)   \
  ATTEND(NAME, T, 64, 2, 4)   \
  ATTEND(NAME, T, 64, 4, 4)   \
  ATTEND(NAME, T, 128, 1, 4)  \
  ATTEND(NAME, T, 128, 2, 4)  \
  ATTEND(NAME, T, 128, 4, 3)  \
  COMBINE(NAME, T, 64)        \
  COMBINE(NAME, T, 128)
OF(f16, __half)
OF(bf16, bf16)
