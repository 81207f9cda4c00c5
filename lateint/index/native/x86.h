// What AVX2 and AVX-512 share: decoding, bytes and floats in 256 bits.
#pragma once

#if defined(LATEINT_SIMDE)  // tests: AVX-512 without a processor that has it
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#if !defined(_mm512_cvtepi32_ps)  // SIMDe 0.7 has none
inline __m512 lateint_cvtepi32_ps(__m512i x) {
    int32_t whole[16];
    float out[16];
    _mm512_storeu_si512(whole, x);
    for (int i = 0; i < 16; ++i) out[i] = static_cast<float>(whole[i]);
    return _mm512_loadu_ps(out);
}
#define _mm512_cvtepi32_ps lateint_cvtepi32_ps
#endif
#else
#include <immintrin.h>
#endif

#include "kernels_build.h"

namespace lateint {
namespace {

inline int32_t four(const void* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return x;
}

struct Row16 {
    __m128i v;
    static Row16 load(const uint8_t* p) { return {_mm_loadu_si128((const __m128i*)p)}; }
    void max(const uint8_t* p) { v = _mm_max_epu8(v, _mm_loadu_si128((const __m128i*)p)); }
    void max(Row16 o) { v = _mm_max_epu8(v, o.v); }
    uint32_t sum() const {
        const __m128i s = _mm_sad_epu8(v, _mm_setzero_si128());
        return (uint32_t)(_mm_cvtsi128_si32(s) + _mm_extract_epi16(s, 4));
    }
};

struct Row32 {
    __m256i v;
    static Row32 load(const uint8_t* p) { return {_mm256_loadu_si256((const __m256i*)p)}; }
    void max(const uint8_t* p) { v = _mm256_max_epu8(v, _mm256_loadu_si256((const __m256i*)p)); }
    void max(Row32 o) { v = _mm256_max_epu8(v, o.v); }
    uint32_t sum() const {
        const __m256i s = _mm256_sad_epu8(v, _mm256_setzero_si256());
        const __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
        return (uint32_t)(_mm_cvtsi128_si32(t) + _mm_extract_epi16(t, 4));
    }
};

struct Bytes128 {
    static constexpr int kPieces = 1;
    __m128i v;
    static inline Bytes128 load(const uint8_t* p) { return {_mm_loadu_si128((const __m128i*)p)}; }
    inline void store(uint8_t* p, int) const { _mm_storeu_si128((__m128i*)p, v); }
    static inline Bytes128 splat(int x) { return {_mm_set1_epi8(static_cast<char>(x))}; }
    inline Bytes128 operator&(Bytes128 o) const { return {_mm_and_si128(v, o.v)}; }
    inline Bytes128 operator|(Bytes128 o) const { return {_mm_or_si128(v, o.v)}; }
    inline Bytes128 operator^(Bytes128 o) const { return {_mm_xor_si128(v, o.v)}; }
    static inline Bytes128 shl(Bytes128 x, int by) { return {_mm_slli_epi16(x.v, by)}; }
    static inline Bytes128 shr(Bytes128 x, int by) { return {_mm_srli_epi16(x.v, by)}; }
    static inline Bytes128 before(Bytes128 x) { return {_mm_slli_si128(x.v, 1)}; }
    static inline Bytes128 lookup(const uint8_t* levels, Bytes128 index) {
        return {_mm_shuffle_epi8(load(levels).v, index.v)};
    }
    static inline Bytes128 choose(Bytes128 mask, Bytes128 a, Bytes128 b) {
        return {_mm_blendv_epi8(b.v, a.v, mask.v)};
    }
};

struct Bytes256 {  // two pieces, one in each half
    static constexpr int kPieces = 2;
    using Half = Bytes128;
    __m256i v;
    static inline Bytes256 load(const uint8_t* p) {
        return {_mm256_loadu_si256((const __m256i*)p)};
    }
    // A plane of each piece; a piece has `planes` of them.
    inline void store(uint8_t* p, int planes) const {
        _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(v));
        _mm_storeu_si128((__m128i*)(p + 16 * planes), _mm256_extracti128_si256(v, 1));
    }
    static inline Bytes256 splat(int x) { return {_mm256_set1_epi8(static_cast<char>(x))}; }
    inline Bytes256 operator&(Bytes256 o) const { return {_mm256_and_si256(v, o.v)}; }
    inline Bytes256 operator|(Bytes256 o) const { return {_mm256_or_si256(v, o.v)}; }
    inline Bytes256 operator^(Bytes256 o) const { return {_mm256_xor_si256(v, o.v)}; }
    static inline Bytes256 shl(Bytes256 x, int by) { return {_mm256_slli_epi16(x.v, by)}; }
    static inline Bytes256 shr(Bytes256 x, int by) { return {_mm256_srli_epi16(x.v, by)}; }
    static inline Bytes256 before(Bytes256 x) { return {_mm256_slli_si256(x.v, 1)}; }
    static inline Bytes256 lookup(const uint8_t* levels, Bytes256 index) {
        const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)levels));
        return {_mm256_shuffle_epi8(table, index.v)};
    }
    static inline Bytes256 choose(Bytes256 mask, Bytes256 a, Bytes256 b) {
        return {_mm256_blendv_epi8(b.v, a.v, mask.v)};
    }
};

struct X86 {
    using Bytes = Bytes128;
    using Wide = Bytes256;
    static inline void to_float(const uint16_t* values, size_t count, float* out) {
        size_t i = 0;
        for (; i + 8 <= count; i += 8)
            _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(values + i))));
        if (i < count) {
            uint16_t last[8] = {};
            float wide[8];
            std::memcpy(last, values + i, 2 * (count - i));
            _mm256_storeu_ps(wide, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)last)));
            std::memcpy(out + i, wide, 4 * (count - i));
        }
    }
};

struct Floats256 {
    static constexpr int W = 8;
    static constexpr bool kPairs = true;
    using F = __m256;
    using Acc = __m256i;
    static inline Acc init(const int32_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
    static inline F load(const float* p) { return _mm256_loadu_ps(p); }
    static inline void store(float* p, F x) { _mm256_storeu_ps(p, x); }
    static inline F splat(float x) { return _mm256_set1_ps(x); }
    static inline F max(F a, F b) { return _mm256_max_ps(a, b); }
    static inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
    static inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    static inline F similar(Acc acc, F weight, F score) {
        return _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc), weight, score);
    }
    static inline F whole(Acc acc) { return _mm256_cvtepi32_ps(acc); }
    template <int QV>
    static inline void pair(Acc (&acc)[QV], const int16_t* both, const int16_t* q, size_t stride) {
        const __m256i x = _mm256_set1_epi32(four(both));
        for (int v = 0; v < QV; ++v)
            acc[v] = _mm256_add_epi32(
                acc[v], _mm256_madd_epi16(x, _mm256_loadu_si256((const __m256i*)(q + v * stride))));
    }
};

}  // namespace
}  // namespace lateint
