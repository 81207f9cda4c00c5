// Any processor: plain C++ in the shape of the others, eight query tokens at a time.
#include "kernels_build.h"

namespace lateint {
namespace {

struct PortableUnit {
    static constexpr int W = 8;
    static constexpr bool kPairs = false;
    static constexpr bool kNarrow = false;
    static constexpr int docs(int) { return 1; }
    struct F {
        float x[W];
    };
    struct Acc {
        int32_t x[W];
    };

    template <class Result, class Get>
    static inline Result each(Get get) {
        Result out;
        for (int i = 0; i < W; ++i) out.x[i] = get(i);
        return out;
    }
    static inline Acc init(const int32_t* p) {
        return each<Acc>([&](int i) { return p[i]; });
    }
    static inline F load(const float* p) {
        return each<F>([&](int i) { return p[i]; });
    }
    static inline void store(float* p, F a) {
        for (int i = 0; i < W; ++i) p[i] = a.x[i];
    }
    static inline F splat(float a) {
        return each<F>([&](int) { return a; });
    }
    static inline F max(F a, F b) {
        return each<F>([&](int i) { return a.x[i] > b.x[i] ? a.x[i] : b.x[i]; });
    }
    static inline F mul(F a, F b) {
        return each<F>([&](int i) { return a.x[i] * b.x[i]; });
    }
    static inline F fma(F a, F b, F c) {
        return each<F>([&](int i) { return a.x[i] * b.x[i] + c.x[i]; });
    }
    static inline F similar(Acc acc, F weight, F score) {
        return each<F>([&](int i) {
            return static_cast<float>(acc.x[i]) * weight.x[i] + score.x[i];
        });
    }

    template <int DOCS, int QV, int>
    static inline void step(Acc (&acc)[DOCS][QV], const uint8_t* docs, size_t width,
                            const int8_t* query, size_t stride) {
        for (int d = 0; d < DOCS; ++d)
            for (int v = 0; v < QV; ++v)
                for (int g = 0; g < 4; ++g) {
                    const uint8_t* x = docs + static_cast<size_t>(d) * width + 4 * g;
                    const int8_t* q = query + static_cast<size_t>(v) * stride + 4 * W * g;
                    for (int i = 0; i < W; ++i)
                        acc[d][v].x[i] += x[0] * q[4 * i] + x[1] * q[4 * i + 1] +
                                          x[2] * q[4 * i + 2] + x[3] * q[4 * i + 3];
                }
    }
};

template <int N>
struct PortableRow {
    uint8_t v[N];
    static PortableRow load(const uint8_t* p) {
        PortableRow row;
        std::memcpy(row.v, p, N);
        return row;
    }
    void max(const uint8_t* p) {
        for (int i = 0; i < N; ++i) v[i] = p[i] > v[i] ? p[i] : v[i];
    }
    void max(const PortableRow& o) { max(o.v); }
    uint32_t sum() const {
        uint32_t s = 0;
        for (int i = 0; i < N; ++i) s += v[i];
        return s;
    }
};

inline float from_half(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
    const uint32_t exponent = h >> 10 & 31, fraction = h & 1023;
    float value;
    if (exponent == 0) {
        value = static_cast<float>(fraction) * 5.9604644775390625e-08f;  // 2^-24
        return sign ? -value : value;
    }
    const uint32_t wide = exponent == 31 ? 255 : exponent + 112;
    const uint32_t bits = sign | wide << 23 | fraction << 13;
    std::memcpy(&value, &bits, 4);
    return value;
}

struct PortableBytes {
    static constexpr int kPieces = 1;
    uint8_t v[16];

    template <class Get>
    static inline PortableBytes each(Get get) {
        PortableBytes out;
        for (int i = 0; i < 16; ++i) out.v[i] = static_cast<uint8_t>(get(i));
        return out;
    }
    static inline PortableBytes load(const uint8_t* p) {
        return each([&](int i) { return p[i]; });
    }
    void store(uint8_t* p, int) const { std::memcpy(p, v, 16); }
    static inline PortableBytes splat(int x) {
        return each([&](int) { return x; });
    }
    PortableBytes operator&(const PortableBytes& o) const {
        return each([&](int i) { return v[i] & o.v[i]; });
    }
    PortableBytes operator|(const PortableBytes& o) const {
        return each([&](int i) { return v[i] | o.v[i]; });
    }
    PortableBytes operator^(const PortableBytes& o) const {
        return each([&](int i) { return v[i] ^ o.v[i]; });
    }
    static inline PortableBytes shl(const PortableBytes& x, int by) {
        return each([&](int i) { return x.v[i] << by; });
    }
    static inline PortableBytes shr(const PortableBytes& x, int by) {
        return each([&](int i) { return x.v[i] >> by; });
    }
    static inline PortableBytes before(const PortableBytes& x) {
        return each([&](int i) { return i ? x.v[i - 1] : 0; });
    }
    static inline PortableBytes lookup(const uint8_t* levels, const PortableBytes& index) {
        return each([&](int i) { return levels[index.v[i]]; });
    }
    static inline PortableBytes choose(const PortableBytes& mask, const PortableBytes& a,
                                       const PortableBytes& b) {
        return each([&](int i) { return mask.v[i] & 128 ? a.v[i] : b.v[i]; });
    }
};

struct Portable {
    using Bytes = PortableBytes;
    using Wide = PortableBytes;
    using Main = PortableUnit;
    using Rest = PortableUnit;
    using Row16 = PortableRow<16>;
    using Row32 = PortableRow<32>;

    static inline void to_float(const uint16_t* values, size_t count, float* out) {
        for (size_t i = 0; i < count; ++i) out[i] = from_half(values[i]);
    }
};

}  // namespace

const char kFaultPosition[] = "position";
const char kFaultOffsets[] = "offsets";
const char kFaultCode[] = "code";

const Kernels kPortable = kernels<Portable>("portable");

}  // namespace lateint
