// What the kernels of decoders and towers in half types share.

#pragma once

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

// Numbers that a thread reads at a time.
constexpr int WIDE = 8;

template <typename T>
struct alignas(16) Eight {
  T v[WIDE];
};

template <typename T>
__device__ Eight<T> eight(const T* from) {
  return *reinterpret_cast<const Eight<T>*>(from);
}

// Four blocks of eight by eight numbers, turned over: the thread `l` gives the address of row `l % 8` of block `l / 8`.
__device__ void turned_over(uint32_t (&a)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row))));
}

}  // namespace
