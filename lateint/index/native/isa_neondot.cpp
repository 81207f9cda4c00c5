// NEON with the dot product (ARMv8.2, sdot): four products to 32 bits, against one group of four of
// the 16 document bytes in a register.
#include "neon.h"

namespace lateint {
namespace {

struct DotUnit : NeonFloats {
    static constexpr int docs(int) { return 4; }
    struct Acc {
        int32x4_t a, b;
    };

    static inline Acc init(const int32_t* p) { return {vld1q_s32(p), vld1q_s32(p + 4)}; }
    static inline F similar(Acc acc, F weight, F score) {
        return fma({vcvtq_f32_s32(acc.a), vcvtq_f32_s32(acc.b)}, weight, score);
    }

    template <int GROUP, int DOCS, int QV>
    static inline void group(Acc (&acc)[DOCS][QV], const int8x16_t (&x)[DOCS], const int8_t* query,
                             size_t stride) {
        for (int v = 0; v < QV; ++v) {
            const int8_t* q = query + static_cast<size_t>(v) * stride + 32 * GROUP;
            const int8x16_t low = vld1q_s8(q), high = vld1q_s8(q + 16);
            for (int d = 0; d < DOCS; ++d) {
                acc[d][v].a = vdotq_laneq_s32(acc[d][v].a, low, x[d], GROUP);
                acc[d][v].b = vdotq_laneq_s32(acc[d][v].b, high, x[d], GROUP);
            }
        }
    }

    template <int DOCS, int QV, int>
    static inline void step(Acc (&acc)[DOCS][QV], const uint8_t* docs, size_t width,
                            const int8_t* query, size_t stride) {
        int8x16_t x[DOCS];
        for (int d = 0; d < DOCS; ++d)
            x[d] = vreinterpretq_s8_u8(vld1q_u8(docs + static_cast<size_t>(d) * width));
        group<0>(acc, x, query, stride);
        group<1>(acc, x, query, stride);
        group<2>(acc, x, query, stride);
        group<3>(acc, x, query, stride);
    }
};

struct NeonDot : NeonIsa {
    using Main = DotUnit;
    using Rest = DotUnit;
    using Row16 = NeonRow16;
    using Row32 = NeonRow32;
};

}  // namespace

const Kernels kNeonDot = kernels<NeonDot>("neondot");

}  // namespace lateint
