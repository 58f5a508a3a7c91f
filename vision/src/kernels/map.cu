// Products of a few rows with weights that are read once (vision::nn::card, engine::model::card), dense and packed. Every number is
// summed in one order however many rows there are, so that a draft is checked with the very numbers that plain decoding would have.

#include "common.cuh"

namespace {

__device__ uint32_t product(uint32_t a, uint32_t b, __half) {
  const __half2 c = __hmul2(*reinterpret_cast<__half2*>(&a), *reinterpret_cast<__half2*>(&b));
  return *reinterpret_cast<const uint32_t*>(&c);
}
__device__ uint32_t product(uint32_t a, uint32_t b, bf16) {
  const bf162 c = __hmul2(*reinterpret_cast<bf162*>(&a), *reinterpret_cast<bf162*>(&b));
  return *reinterpret_cast<const uint32_t*>(&c);
}

__device__ uint4 streamed(const uint4* from) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(from));
  return v;
}

// Steps of a warp that lie together in a row. A thread reads the weights of 4 steps ahead, of 2 where it has more rows.
constexpr int RUN = 4;

// Products of one step, 32 numbers of `in`, with two rows of W a thread for each of TALL times 16.
template <typename T, int TILES, int TALL>
__device__ void step_of(const T* x, const T* gain, const uint4 (&w)[TALL][2], int in, int n, int at,
                        float (&acc)[TALL][TILES][4], float (&square)[TILES]) {
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
#pragma unroll
    for (int tall = 0; tall < TALL; ++tall) {
      const uint4 w0 = w[tall][0], w1 = w[tall][1];
      multiply(acc[tall][tokens], w0.x, w1.x, w0.y, w1.y, b.x, b.y, T());
      multiply(acc[tall][tokens], w0.z, w1.z, w0.w, w1.w, b.z, b.w, T());
    }
  }
}

// Where a map's outputs go and what is done with them: y [n, across], of whose columns the first `out` are written, = add + scale *
// (norm(x) W^T + bias), `add` as y. GATED: W is gates over ups, y = silu(gate) * up.
template <typename T>
struct Leaving {
  const T* bias;
  const T* add;
  T* y;
  int in, out, across, n;
  float eps, scale;
  bool normed;
};

// Adds up what the warps of a block have of TALL times 16 rows, in the order of the warps.
template <typename T, int TILES, int TALL, bool GATED>
__device__ void leave(const float (&acc)[TALL][TILES][4], const float (&square)[TILES], int first, const Leaving<T>& to) {
  constexpr int ROWS = GATED ? 8 : 16;
  __shared__ float partial[WARPS][TILES][128];
  __shared__ float squares[WARPS][TILES * 8];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int tokens = 0; tokens < TILES; ++tokens) {
    float s = square[tokens];
    s += __shfl_xor_sync(0xffffffff, s, 1);
    s += __shfl_xor_sync(0xffffffff, s, 2);
    if (t == 0) squares[warp][tokens * 8 + g] = s;
  }
#pragma unroll
  for (int tall = 0; tall < TALL; ++tall) {
    if (tall > 0) __syncthreads();
#pragma unroll
    for (int tokens = 0; tokens < TILES; ++tokens) {
      float* mine = partial[warp][tokens];
      mine[g * 8 + 2 * t] = acc[tall][tokens][0];
      mine[g * 8 + 2 * t + 1] = acc[tall][tokens][1];
      mine[64 + g * 8 + 2 * t] = acc[tall][tokens][2];
      mine[64 + g * 8 + 2 * t + 1] = acc[tall][tokens][3];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < TILES * ROWS * 8; i += WARPS * 32) {
      const int tokens = i / (ROWS * 8), place = i % (ROWS * 8), row = first + tall * ROWS + place / 8;
      const int token = tokens * 8 + place % 8;
      if (row >= to.out || token >= to.n) continue;
      float sum = 0.f, up = 0.f, square = 0.f;
#pragma unroll
      for (int w = 0; w < WARPS; ++w) {
        sum += partial[w][tokens][place];
        if (GATED) up += partial[w][tokens][64 + place];
        square += squares[w][token];
      }
      const float inverse = to.normed ? rsqrtf(square / to.in + to.eps) : 1.f;
      sum *= inverse;
      if (to.bias) sum += number(to.bias[row]);
      if (GATED) {
        up *= inverse;
        if (to.bias) up += number(to.bias[to.out + row]);
        sum = sum / (1.f + __expf(-sum)) * up;
      }
      sum *= to.scale;
      const int64_t at = static_cast<int64_t>(token) * to.across + row;
      if (to.add) sum += number(to.add[at]);
      put(to.y + at, sum);
    }
  }
}

// Which steps of a row a warp has: RUN that lie together in each turn, so that what a block reads at a time does too.
struct Steps {
  int turns, rest, warp;
  __device__ explicit Steps(int in) {
    const int steps = in / 32;
    turns = steps / (RUN * WARPS);
    rest = steps - turns * RUN * WARPS;
    warp = threadIdx.x / 32;
  }
  __device__ int count() const { return turns * RUN + min(max(rest - warp * RUN, 0), RUN); }
  __device__ int operator()(int i) const { return (i / RUN * WARPS + warp) * RUN + i % RUN; }
};

// A map with W [out, in] (GATED [2 out, in]) for x [n, in], which without `gain` is not normalised; `bias` and `add` may be absent. A
// block has TALL times 16 rows of W (8 gates and their ups), its warps share out `in`; TILES times 8 tokens. Neighbouring numbers of a
// row are what one thread of the tensor core's tile holds: the order of `in` within a product is free as long as both sides have the
// same. The first weights are read while the kernel before still runs. With many tokens a block has more rows, since each block
// reads all of x.
template <typename T, int TILES, int TALL, bool GATED>
__device__ void linear(const T* x, const T* gain, const T* weight, const Leaving<T>& to) {
  constexpr int ROWS = GATED ? 8 : 16, UNROLL = 4 / TALL;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, first = blockIdx.x * TALL * ROWS, in = to.in, out = to.out;
  const Steps step(in);
  const int count = step.count(), whole = count / UNROLL * UNROLL;
  const T* a[TALL][2];
#pragma unroll
  for (int tall = 0; tall < TALL; ++tall) {
    const int row = first + tall * ROWS + g, above = min(row, out - 1);
    a[tall][0] = weight + static_cast<int64_t>(above) * in + t * 8;
    a[tall][1] = weight + static_cast<int64_t>(GATED ? out + above : min(row + 8, out - 1)) * in + t * 8;
  }
  float acc[TALL][TILES][4] = {}, square[TILES] = {};
  let_next_begin();
  uint4 w[UNROLL][TALL][2];
  const auto read = [&](uint4(&into)[TALL][2], int i) {
#pragma unroll
    for (int tall = 0; tall < TALL; ++tall) {
      into[tall][0] = streamed(reinterpret_cast<const uint4*>(a[tall][0] + step(i) * 32));
      into[tall][1] = streamed(reinterpret_cast<const uint4*>(a[tall][1] + step(i) * 32));
    }
  };
  if (whole > 0) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) read(w[u], u);
  }
  after_others();
  for (int i = 0; i < whole; i += UNROLL) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u)
      step_of<T, TILES, TALL>(x, gain, w[u], in, to.n, step(i + u) * 32 + t * 8, acc, square);
    if (i + UNROLL < whole) {
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) read(w[u], i + UNROLL + u);
    }
  }
  for (int i = whole; i < count; ++i) {
    read(w[0], i);
    step_of<T, TILES, TALL>(x, gain, w[0], in, to.n, step(i) * 32 + t * 8, acc, square);
  }
  leave<T, TILES, TALL, GATED>(acc, square, first, to);
}

// Packed weights (engine::quantised::card): pieces of 16 rows (8 gates and their ups) by 32 columns, in each of which a thread of a
// warp has its codes beside one another: of two rows four columns of the first half and four of the second. With each row of a piece
// come two halves of a word. FOUR: codes of four bits, a factor and what is added. EIGHT: the same with codes of eight bits,
// 128 above what they stand for. SIXTEENS: codes of eight bits, a factor for each half of the columns.
constexpr int FOUR = 1, EIGHT = 2, SIXTEENS = 3;

template <int KIND>
struct Piece {
  uint4 codes;  // Of four bits: only the first two words.
  uint2 factors;
};

template <int KIND>
__device__ Piece<KIND> piece(const uint8_t* codes, const uint2* factors, int64_t at) {
  Piece<KIND> read;
  const int lane = threadIdx.x % 32;
  if (KIND == FOUR) {
    const uint2 two = __ldcs(reinterpret_cast<const uint2*>(codes) + at * 32 + lane);
    read.codes = make_uint4(two.x, two.y, 0, 0);
  } else {
    read.codes = __ldcs(reinterpret_cast<const uint4*>(codes) + at * 32 + lane);
  }
  read.factors = __ldcs(factors + at * 8 + lane / 4);
  return read;
}

__device__ uint32_t ones(__half) { return 0x3c003c00; }
__device__ uint32_t ones(bf16) { return 0x3f803f80; }
__device__ uint32_t bits(__half2 x) { return *reinterpret_cast<uint32_t*>(&x); }
__device__ uint32_t bits(bf162 x) { return *reinterpret_cast<uint32_t*>(&x); }

// Four codes below 16 as numbers: the low bits of a number whose step is 1.
__device__ uint2 small(uint32_t codes, __half) {
  uint32_t low = __byte_perm(codes, 0x64646464, 0x4140), high = __byte_perm(codes, 0x64646464, 0x4342);
  const __half2 base = __float2half2_rn(1024.f);
  return make_uint2(bits(__hsub2(*reinterpret_cast<__half2*>(&low), base)),
                    bits(__hsub2(*reinterpret_cast<__half2*>(&high), base)));
}
__device__ uint2 small(uint32_t codes, bf16) {
  uint32_t low = __byte_perm(codes, 0x43434343, 0x4140), high = __byte_perm(codes, 0x43434343, 0x4342);
  const bf162 base = __float2bfloat162_rn(128.f);
  return make_uint2(bits(__hsub2(*reinterpret_cast<bf162*>(&low), base)),
                    bits(__hsub2(*reinterpret_cast<bf162*>(&high), base)));
}

// Four codes of eight bits less 128.
__device__ uint2 large(uint32_t codes, __half) {
  uint32_t low = __byte_perm(codes, 0x64646464, 0x4140), high = __byte_perm(codes, 0x64646464, 0x4342);
  const __half2 base = __float2half2_rn(1152.f);
  return make_uint2(bits(__hsub2(*reinterpret_cast<__half2*>(&low), base)),
                    bits(__hsub2(*reinterpret_cast<__half2*>(&high), base)));
}
__device__ uint2 large(uint32_t codes, bf16) {
  float v[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = __uint_as_float(__byte_perm(codes, 0x4b000000, 0x7440 + i)) - 8388736.f;
  return make_uint2(bits(__floats2bfloat162_rn(v[0], v[1])), bits(__floats2bfloat162_rn(v[2], v[3])));
}

// The numbers of two rows in a piece, without factors: both halves of the first row, both of the second.
template <typename T, int KIND>
__device__ void unpacked(const uint4& codes, uint2 (&row)[2][2]) {
  if (KIND == FOUR) {
    row[0][0] = small(codes.x & 0x0f0f0f0f, T());
    row[0][1] = small(codes.x >> 4 & 0x0f0f0f0f, T());
    row[1][0] = small(codes.y & 0x0f0f0f0f, T());
    row[1][1] = small(codes.y >> 4 & 0x0f0f0f0f, T());
  } else {
    row[0][0] = large(codes.x, T());
    row[0][1] = large(codes.y, T());
    row[1][0] = large(codes.z, T());
    row[1][1] = large(codes.w, T());
  }
}

__device__ float2 factors_of(uint32_t word) { return __half22float2(*reinterpret_cast<__half2*>(&word)); }

template <typename T, int TILES, int TALL, int KIND>
__device__ void packed_step(const T* x, const T* gain, const Piece<KIND> (&w)[TALL], int in, int n, int at,
                            float (&acc)[TALL][TILES][4], float (&square)[TILES]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  uint2 gains[2];
  if (gain) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      gains[half] = *reinterpret_cast<const uint2*>(gain + at + half * 16 + t * 4);
  }
  uint2 rows[TALL][2][2];
#pragma unroll
  for (int tall = 0; tall < TALL; ++tall) unpacked<T, KIND>(w[tall].codes, rows[tall]);
  const uint32_t one = ones(T());
#pragma unroll
  for (int tokens = 0; tokens < TILES; ++tokens) {
    const int token = tokens * 8 + g;
    uint2 b[2] = {make_uint2(0, 0), make_uint2(0, 0)};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (token < n) b[half] = *reinterpret_cast<const uint2*>(x + static_cast<int64_t>(token) * in + at + half * 16 + t * 4);
      if (gain) {
        const float2 v = pair(b[half].x, T()), u = pair(b[half].y, T());
        square[tokens] = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(u.x, u.x, fmaf(u.y, u.y, square[tokens]))));
        b[half] = make_uint2(product(b[half].x, gains[half].x, T()), product(b[half].y, gains[half].y, T()));
      }
    }
    // What is added to each number of a row, it is added to as often as x says.
    float sums[4] = {};
    if (KIND != SIXTEENS) {
      multiply(sums, one, one, one, one, b[0].x, b[0].y, T());
      multiply(sums, one, one, one, one, b[1].x, b[1].y, T());
    }
#pragma unroll
    for (int tall = 0; tall < TALL; ++tall) {
      const uint2(&row)[2][2] = rows[tall];
      const float2 f0 = factors_of(w[tall].factors.x), f1 = factors_of(w[tall].factors.y);
      float(&to)[4] = acc[tall][tokens];
      float parts[4] = {};
      multiply(parts, row[0][0].x, row[1][0].x, row[0][0].y, row[1][0].y, b[0].x, b[0].y, T());
      if (KIND == SIXTEENS) {
        to[0] = fmaf(f0.x, parts[0], to[0]);
        to[1] = fmaf(f0.x, parts[1], to[1]);
        to[2] = fmaf(f1.x, parts[2], to[2]);
        to[3] = fmaf(f1.x, parts[3], to[3]);
        parts[0] = parts[1] = parts[2] = parts[3] = 0.f;
      }
      multiply(parts, row[0][1].x, row[1][1].x, row[0][1].y, row[1][1].y, b[1].x, b[1].y, T());
      const float a = KIND == SIXTEENS ? f0.y : f0.x, c = KIND == SIXTEENS ? f1.y : f1.x;
      to[0] = fmaf(a, parts[0], to[0]);
      to[1] = fmaf(a, parts[1], to[1]);
      to[2] = fmaf(c, parts[2], to[2]);
      to[3] = fmaf(c, parts[3], to[3]);
      if (KIND != SIXTEENS) {
        to[0] = fmaf(f0.y, sums[0], to[0]);
        to[1] = fmaf(f0.y, sums[1], to[1]);
        to[2] = fmaf(f1.y, sums[0], to[2]);
        to[3] = fmaf(f1.y, sums[1], to[3]);
      }
    }
  }
}

// The same as `linear` for packed weights.
template <typename T, int TILES, int TALL, bool GATED, int KIND>
__device__ void packed(const T* x, const T* gain, const uint8_t* codes, const uint2* factors, const Leaving<T>& to) {
  constexpr int ROWS = GATED ? 8 : 16, UNROLL = 4 / TALL;
  const int in = to.in, steps = in / 32, pieces = (to.out + ROWS - 1) / ROWS;
  const Steps step(in);
  const int count = step.count(), whole = count / UNROLL * UNROLL;
  float acc[TALL][TILES][4] = {}, square[TILES] = {};
  let_next_begin();
  Piece<KIND> w[UNROLL][TALL];
  const auto read = [&](Piece<KIND>(&into)[TALL], int i) {
#pragma unroll
    for (int tall = 0; tall < TALL; ++tall) {
      const int64_t group = min(static_cast<int>(blockIdx.x) * TALL + tall, pieces - 1);
      into[tall] = piece<KIND>(codes, factors, group * steps + step(i));
    }
  };
  if (whole > 0) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) read(w[u], u);
  }
  after_others();
  for (int i = 0; i < whole; i += UNROLL) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u)
      packed_step<T, TILES, TALL, KIND>(x, gain, w[u], in, to.n, step(i + u) * 32, acc, square);
    if (i + UNROLL < whole) {
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) read(w[u], i + UNROLL + u);
    }
  }
  for (int i = whole; i < count; ++i) {
    read(w[0], i);
    packed_step<T, TILES, TALL, KIND>(x, gain, w[0], in, to.n, step(i) * 32, acc, square);
  }
  leave<T, TILES, TALL, GATED>(acc, square, blockIdx.x * TALL * ROWS, to);
}

// Rows of a packed weight as numbers, y [rows, in]: row i is that of `ids`, or the i-th. Where it is gated there are `out` gates
// and as many ups. A thread has four columns.
template <typename T, int KIND>
__device__ void unpack(const uint8_t* codes, const uint32_t* factors, const uint32_t* ids, T* y, int in, int out, int gated) {
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * 4;
  if (column >= in) return;
  const int row = ids ? ids[blockIdx.x] : blockIdx.x;
  const int rows = gated ? 8 : 16, within = gated && row >= out ? row - out : row;
  const int r = within % rows + (gated && row >= out ? 8 : 0), g = r % 8, high = r / 8;
  const int64_t at = static_cast<int64_t>(within / rows) * (in / 32) + column / 32;
  const int half = column % 32 / 16, t = column % 16 / 4, lane = g * 4 + t;
  const float2 f = factors_of(factors[(at * 8 + g) * 2 + high]);
  uint32_t word;
  if (KIND == FOUR) {
    word = reinterpret_cast<const uint32_t*>(codes)[(at * 32 + lane) * 2 + high] >> (4 * half) & 0x0f0f0f0f;
  } else {
    word = reinterpret_cast<const uint32_t*>(codes)[(at * 32 + lane) * 4 + high * 2 + half];
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int code = static_cast<int>(word >> (8 * i) & 255) - (KIND == FOUR ? 0 : 128);
    const float v = KIND == SIXTEENS ? (half ? f.y : f.x) * code : fmaf(f.x, code, f.y);
    put(y + static_cast<int64_t>(blockIdx.x) * in + column + i, v);
  }
}

}  // namespace

#define MAP(NAME, KIND_NAME, T, TILES, BLOCKS, GATED, WEIGHTS, CALL)                                                       \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS)                                                          \
      KIND_NAME##_##NAME##_##TILES(const T* x, const T* gain, WEIGHTS, const T* bias, const T* add, T* y, int in, int out,  \
                                   int across, int n, float eps, float scale) {                                            \
    const Leaving<T> to{bias, add, y, in, out, across, n, eps, scale, gain != nullptr};                                     \
    CALL;                                                                                                                   \
  }
#define COMMA ,
// Of rows that are not gated there are fewer blocks: with few tokens two on a multiprocessor are faster than three with fewer registers.
#define LINEAR(NAME, T, TILES, TALL, BLOCKS)                                                                                \
  MAP(NAME, linear, T, TILES, (TILES == 1 ? 2 : BLOCKS), false, const T* weight,                                            \
      (linear<T, TILES, TALL, false>(x, gain, weight, to)))                                                                 \
  MAP(NAME, gated, T, TILES, BLOCKS, true, const T* weight, (linear<T, TILES, TALL, true>(x, gain, weight, to)))            \
  PACKED(NAME, four, FOUR, T, TILES, TALL, BLOCKS)                                                                          \
  PACKED(NAME, eight, EIGHT, T, TILES, TALL, BLOCKS)                                                                        \
  PACKED(NAME, sixteens, SIXTEENS, T, TILES, TALL, BLOCKS)
#define PACKED(NAME, KIND_NAME, KIND, T, TILES, TALL, BLOCKS)                                                               \
  MAP(NAME, linear_##KIND_NAME, T, TILES, BLOCKS, false, const uint8_t* codes COMMA const uint2* factors,                   \
      (packed<T, TILES, TALL, false, KIND>(x, gain, codes, factors, to)))                                                   \
  MAP(NAME, gated_##KIND_NAME, T, TILES, BLOCKS, true, const uint8_t* codes COMMA const uint2* factors,                     \
      (packed<T, TILES, TALL, true, KIND>(x, gain, codes, factors, to)))
#define UNPACK(NAME, KIND_NAME, KIND, T)                                                                                    \
  extern "C" __global__ void unpack_##KIND_NAME##_##NAME(const uint8_t* codes, const uint32_t* factors,                     \
                                                         const uint32_t* ids, T* y, int in, int out, int gated) {           \
    unpack<T, KIND>(codes, factors, ids, y, in, out, gated);                                                                \
  }
// As TALL is `spotter_vision::nn::card::tall`.
#define OF(NAME, T)                  \
  UNPACK(NAME, four, FOUR, T)        \
  UNPACK(NAME, eight, EIGHT, T)      \
  UNPACK(NAME, sixteens, SIXTEENS, T) \
  LINEAR(NAME, T, 1, 1, 3)           \
  LINEAR(NAME, T, 2, 1, 2)           \
  LINEAR(NAME, T, 4, 2, 2)           \
  LINEAR(NAME, T, 8, 2, 1)
OF(f16, __half)
OF(bf16, bf16)
