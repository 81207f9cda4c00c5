// NEON without the dot product: products to 16 bits (smull), added in pairs to 32 bits (sadalp); a
// sum of four products lies in two lanes until `similar` adds them. Levels are 0 to 127, so signed
// bytes hold them.
#include "neon.h"

namespace lateint {
namespace {

struct NeonUnit : NeonFloats {
    static constexpr int docs(int) { return 2; }
    struct Acc {
        int32x4_t s[4];
    };

    static inline Acc init(const int32_t* p) {
        const int32x4_t zero = vdupq_n_s32(0), a = vld1q_s32(p), b = vld1q_s32(p + 4);
        return {{vzip1q_s32(a, zero), vzip2q_s32(a, zero), vzip1q_s32(b, zero),
                 vzip2q_s32(b, zero)}};
    }
    static inline F similar(Acc acc, F weight, F score) {
        const F sum = {vcvtq_f32_s32(vpaddq_s32(acc.s[0], acc.s[1])),
                       vcvtq_f32_s32(vpaddq_s32(acc.s[2], acc.s[3]))};
        return fma(sum, weight, score);
    }

    template <int DOCS, int QV, int>
    static inline void step(Acc (&acc)[DOCS][QV], const uint8_t* docs, size_t width,
                            const int8_t* query, size_t stride) {
        for (int g = 0; g < 4; ++g)
            for (int d = 0; d < DOCS; ++d) {
                int32_t bytes;
                std::memcpy(&bytes, docs + static_cast<size_t>(d) * width + 4 * g, 4);
                const int8x8_t x = vreinterpret_s8_s32(vdup_n_s32(bytes));
                for (int v = 0; v < QV; ++v) {
                    const int8_t* q = query + static_cast<size_t>(v) * stride + 32 * g;
                    for (int i = 0; i < 4; ++i)
                        acc[d][v].s[i] = vpadalq_s16(acc[d][v].s[i], vmull_s8(x, vld1_s8(q + 8 * i)));
                }
            }
    }
};

struct Neon : NeonIsa {
    using Main = NeonUnit;
    using Rest = NeonUnit;
    using Row16 = NeonRow16;
    using Row32 = NeonRow32;
};

}  // namespace

const Kernels kNeon = kernels<Neon>("neon");

}  // namespace lateint
