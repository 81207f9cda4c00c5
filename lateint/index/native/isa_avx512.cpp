// AVX-512 with VNNI (F, BW, DQ, VL, VNNI; 2019 on): four products to 32 bits in one instruction
// (vpdpbusd), 16 query tokens in a vector, 8 in what is left.
#include "x86.h"

namespace lateint {
namespace {

struct VnniUnit256 : Floats256 {
    static constexpr bool kNarrow = false;
    static constexpr int docs(int) { return 8; }

    template <int DOCS, int QV, int>
    static inline void step(Acc (&acc)[DOCS][QV], const uint8_t* docs, size_t width,
                            const int8_t* query, size_t stride) {
        for (int g = 0; g < 4; ++g) {
            __m256i q[QV];
            for (int v = 0; v < QV; ++v)
                q[v] = _mm256_loadu_si256(
                    (const __m256i*)(query + static_cast<size_t>(v) * stride + 32 * g));
            for (int d = 0; d < DOCS; ++d) {
                const __m256i x =
                    _mm256_set1_epi32(four(docs + static_cast<size_t>(d) * width + 4 * g));
                for (int v = 0; v < QV; ++v) acc[d][v] = _mm256_dpbusd_epi32(acc[d][v], x, q[v]);
            }
        }
    }
};

struct VnniUnit512 {
    static constexpr int W = 16;
    static constexpr bool kPairs = true;
    static constexpr bool kNarrow = false;
    using F = __m512;
    using Acc = __m512i;
    static constexpr int docs(int) { return 8; }

    static inline Acc init(const int32_t* p) { return _mm512_loadu_si512(p); }
    static inline F load(const float* p) { return _mm512_loadu_ps(p); }
    static inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
    static inline F splat(float x) { return _mm512_set1_ps(x); }
    static inline F max(F a, F b) { return _mm512_max_ps(a, b); }
    static inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static inline F similar(Acc acc, F weight, F score) {
        return _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), weight, score);
    }
    static inline F whole(Acc acc) { return _mm512_cvtepi32_ps(acc); }
    template <int QV>
    static inline void pair(Acc (&acc)[QV], const int16_t* both, const int16_t* q, size_t stride) {
        const __m512i x = _mm512_set1_epi32(four(both));
        for (int v = 0; v < QV; ++v)
            acc[v] = _mm512_dpwssd_epi32(acc[v], x, _mm512_loadu_si512(q + v * stride));
    }

    template <int DOCS, int QV, int>
    static inline void step(Acc (&acc)[DOCS][QV], const uint8_t* docs, size_t width,
                            const int8_t* query, size_t stride) {
        for (int g = 0; g < 4; ++g) {
            __m512i q[QV];
            for (int v = 0; v < QV; ++v)
                q[v] = _mm512_loadu_si512(query + static_cast<size_t>(v) * stride + 64 * g);
            for (int d = 0; d < DOCS; ++d) {
                const __m512i x =
                    _mm512_set1_epi32(four(docs + static_cast<size_t>(d) * width + 4 * g));
                for (int v = 0; v < QV; ++v) acc[d][v] = _mm512_dpbusd_epi32(acc[d][v], x, q[v]);
            }
        }
    }
};

struct Avx512 : X86 {
    using Main = VnniUnit512;
    using Rest = VnniUnit256;
    using Row16 = lateint::Row16;
    using Row32 = lateint::Row32;
};

}  // namespace

const Kernels kAvx512 = kernels<Avx512>("avx512");

}  // namespace lateint
