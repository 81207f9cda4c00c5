// What both NEON units share.
#pragma once

#if defined(LATEINT_SIMDE)  // tests: NEON without such a processor
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/arm/neon.h>
#else
#include <arm_neon.h>
#endif

#include "kernels_build.h"

namespace lateint {
namespace {

struct NeonFloats {
    static constexpr int W = 8;
    static constexpr bool kPairs = false;
    static constexpr bool kNarrow = false;
    struct F {
        float32x4_t a, b;
    };
    static inline F load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
    static inline void store(float* p, F x) {
        vst1q_f32(p, x.a);
        vst1q_f32(p + 4, x.b);
    }
    static inline F splat(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
    static inline F max(F x, F y) { return {vmaxq_f32(x.a, y.a), vmaxq_f32(x.b, y.b)}; }
    static inline F mul(F x, F y) { return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b)}; }
    static inline F fma(F x, F y, F z) {
        return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b)};
    }
};

struct NeonRow16 {
    uint8x16_t v;
    static NeonRow16 load(const uint8_t* p) { return {vld1q_u8(p)}; }
    void max(const uint8_t* p) { v = vmaxq_u8(v, vld1q_u8(p)); }
    void max(NeonRow16 o) { v = vmaxq_u8(v, o.v); }
    uint32_t sum() const { return vaddlvq_u8(v); }
};

struct NeonRow32 {
    uint8x16_t v, w;
    static NeonRow32 load(const uint8_t* p) { return {vld1q_u8(p), vld1q_u8(p + 16)}; }
    void max(const uint8_t* p) {
        v = vmaxq_u8(v, vld1q_u8(p));
        w = vmaxq_u8(w, vld1q_u8(p + 16));
    }
    void max(NeonRow32 o) {
        v = vmaxq_u8(v, o.v);
        w = vmaxq_u8(w, o.w);
    }
    uint32_t sum() const { return static_cast<uint32_t>(vaddlvq_u8(v)) + vaddlvq_u8(w); }
};

struct NeonBytes {
    static constexpr int kPieces = 1;
    uint8x16_t v;
    static inline NeonBytes load(const uint8_t* p) { return {vld1q_u8(p)}; }
    inline void store(uint8_t* p, int) const { vst1q_u8(p, v); }
    static inline NeonBytes splat(int x) { return {vdupq_n_u8(static_cast<uint8_t>(x))}; }
    inline NeonBytes operator&(NeonBytes o) const { return {vandq_u8(v, o.v)}; }
    inline NeonBytes operator|(NeonBytes o) const { return {vorrq_u8(v, o.v)}; }
    inline NeonBytes operator^(NeonBytes o) const { return {veorq_u8(v, o.v)}; }
    static inline NeonBytes shl(NeonBytes x, int by) {
        return {vshlq_u8(x.v, vdupq_n_s8(static_cast<int8_t>(by)))};
    }
    static inline NeonBytes shr(NeonBytes x, int by) {
        return {vshlq_u8(x.v, vdupq_n_s8(static_cast<int8_t>(-by)))};
    }
    static inline NeonBytes before(NeonBytes x) { return {vextq_u8(vdupq_n_u8(0), x.v, 15)}; }
    static inline NeonBytes lookup(const uint8_t* levels, NeonBytes index) {
        return {vqtbl1q_u8(vld1q_u8(levels), index.v)};
    }
    static inline NeonBytes choose(NeonBytes mask, NeonBytes a, NeonBytes b) {
        const int8x16_t sign = vshrq_n_s8(vreinterpretq_s8_u8(mask.v), 7);
        return {vbslq_u8(vreinterpretq_u8_s8(sign), a.v, b.v)};
    }
};

struct NeonIsa {
    using Bytes = NeonBytes;
    using Wide = NeonBytes;
    static inline void to_float(const uint16_t* values, size_t count, float* out) {
        size_t i = 0;
        for (; i + 4 <= count; i += 4)
            vst1q_f32(out + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(values + i))));
        if (i < count) {
            uint16_t last[4] = {};
            float wide[4];
            std::memcpy(last, values + i, 2 * (count - i));
            vst1q_f32(wide, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(last))));
            std::memcpy(out + i, wide, 4 * (count - i));
        }
    }
};

}  // namespace
}  // namespace lateint
