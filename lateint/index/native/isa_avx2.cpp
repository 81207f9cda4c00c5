// AVX2, FMA, F16C (2013 on). Products of unsigned levels and signed query bytes are added in pairs
// to 16 bits (vpmaddubsw, which saturates: levels up to 127 and queries within +-127 cannot reach
// that), and those, N groups of four dimensions together where `narrow` says that 16 bits hold
// them, in pairs to 32 bits (vpmaddwd).
#include "x86.h"

namespace lateint {
namespace {

struct Avx2Unit : Floats256 {
    static constexpr bool kNarrow = true;
    static constexpr int docs(int qv) { return qv == 2 ? 2 : 4; }

    template <int DOCS, int QV, int N>
    static inline void step(Acc (&acc)[DOCS][QV], const uint8_t* docs, size_t width,
                            const int8_t* query, size_t stride) {
        const __m256i ones = _mm256_set1_epi16(1);
        for (int d = 0; d < DOCS; ++d) {
            const uint8_t* doc = docs + static_cast<size_t>(d) * width;
            __m256i x[4];
            for (int g = 0; g < 4; ++g) x[g] = _mm256_set1_epi32(four(doc + 4 * g));
            for (int v = 0; v < QV; ++v) {
                const __m256i* q = (const __m256i*)(query + static_cast<size_t>(v) * stride);
                for (int g = 0; g < 4; g += N) {
                    __m256i sum = _mm256_maddubs_epi16(x[g], _mm256_loadu_si256(q + g));
                    for (int n = 1; n < N; ++n)
                        sum = _mm256_add_epi16(
                            sum, _mm256_maddubs_epi16(x[g + n], _mm256_loadu_si256(q + g + n)));
                    acc[d][v] = _mm256_add_epi32(acc[d][v], _mm256_madd_epi16(sum, ones));
                }
            }
        }
    }
};

struct Avx2 : X86 {
    using Main = Avx2Unit;
    using Rest = Avx2Unit;
    using Row16 = lateint::Row16;
    using Row32 = lateint::Row32;
};

}  // namespace

const Kernels kAvx2 = kernels<Avx2>("avx2");

}  // namespace lateint
