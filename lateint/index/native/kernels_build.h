// Kernels of building: plain loops that the compiler turns into vectors of this instruction set;
// and the table of all kernels.
#pragma once

#include "kernels_float.h"
#include "kernels_trellis.h"

namespace lateint {
namespace {

template <int NBITS>
inline void pack_row(const uint8_t* index, int bytes, uint8_t* packed) {
    constexpr int PER = 8 / NBITS;
    for (int b = 0; b < bytes; ++b) {
        unsigned value = 0;
        for (int plane = 0; plane < PER; ++plane)
            value |= static_cast<unsigned>(index[b * PER + plane]) << (plane * NBITS);
        packed[b] = static_cast<uint8_t>(value);
    }
}

constexpr int kLanes = 8;  // sums of floats are kept in so many lanes, or they would not be vectors

inline float sum_lanes(const float (&lanes)[kLanes]) {
    float sum = 0.0f;
    for (int l = 0; l < kLanes; ++l) sum += lanes[l];
    return sum;
}

// What is left of one token by its centroid, and how well levels fit it.
struct Residual {
    alignas(64) float token[1024], left[1024], unit[1024], scale[1024], level[1024];
    float along, weight;  // <token, left>; weight of the error along the token
    int padded;           // with zeros, to whole lanes

    explicit Residual(const QuantiseJob& job) : padded((job.dim + kLanes - 1) / kLanes * kLanes) {
        for (int d = 0; d < padded; ++d) {
            token[d] = left[d] = unit[d] = 0.0f;
            scale[d] = d < job.dim ? job.scale[d] : 0.0f;
        }
    }

    void set(const QuantiseJob& job, int64_t i) {
        const float* x = job.values + static_cast<size_t>(i) * job.dim;
        const float* c = job.centroids + static_cast<size_t>(job.codes[i]) * job.dim;
        for (int d = 0; d < job.dim; ++d) token[d] = x[d], left[d] = x[d] - c[d];
        float squares[kLanes] = {}, both[kLanes] = {}, own[kLanes] = {};
        for (int d = 0; d < padded; d += kLanes)
            for (int l = 0; l < kLanes; ++l) {
                squares[l] += left[d + l] * left[d + l];
                both[l] += left[d + l] * token[d + l];
                own[l] += token[d + l] * token[d + l];
            }
        along = sum_lanes(both);
        const float length = sum_lanes(own);
        weight = job.along / (length > 1e-12f ? length : 1e-12f);
        float spread = std::sqrt(sum_lanes(squares) / static_cast<float>(job.dim));
        spread = spread > 1e-9f ? spread : 1e-9f;
        for (int d = 0; d < job.dim; ++d) unit[d] = left[d] / spread / job.scale[d];
    }

    // (gain, factor) of the levels that are nearest to unit / stretch: the larger the gain, the
    // smaller |e|^2 + weight <e, token>^2 of the error e that is left with this factor.
    void fit(const QuantiseJob& job, float stretch, float& gain, float& factor) {
        const int limits = (1 << job.nbits) - 1;
        for (int d = 0; d < padded; ++d) level[d] = job.levels[0];
        for (int i = 0; i < limits; ++i) {
            const float limit = job.boundaries[i] * stretch;
            const float step = static_cast<float>(job.levels[i + 1] - job.levels[i]);
            for (int d = 0; d < padded; ++d) level[d] += unit[d] > limit ? step : 0.0f;
        }
        float a[kLanes] = {}, b[kLanes] = {}, s[kLanes] = {};
        for (int d = 0; d < padded; d += kLanes)
            for (int l = 0; l < kLanes; ++l) {
                const float coded = level[d + l] * scale[d + l];
                a[l] += left[d + l] * coded;
                b[l] += coded * coded;
                s[l] += token[d + l] * coded;
            }
        const float own = sum_lanes(s);
        const float top = sum_lanes(a) + weight * along * own;
        const float bottom = sum_lanes(b) + weight * own * own;
        factor = top / bottom;
        gain = top > 0.0f ? top * factor : 0.0f;
    }
};

void quantise_plain(const QuantiseJob& job, int64_t first, int64_t last, uint8_t* packed,
                    float* factor) {
    const Layout layout(job.dim, job.nbits);
    const int limits = (1 << job.nbits) - 1;
    Residual residual(job);
    alignas(64) uint8_t small[1024 + 8] = {};
    for (int64_t i = first; i < last; ++i) {
        residual.set(job, i);
        float best = -1.0f, stretch = 1.0f;
        for (int m = 0; m < job.stretch; ++m) {
            float gain, with;
            residual.fit(job, job.stretches[m], gain, with);
            if (gain > best) best = gain, stretch = job.stretches[m], factor[i] = with;
        }
        alignas(64) int32_t index[1024];
        for (int d = 0; d < job.dim; ++d) index[d] = 0;
        for (int b = 0; b < limits; ++b) {
            const float limit = job.boundaries[b] * stretch;
            for (int d = 0; d < job.dim; ++d) index[d] += residual.unit[d] > limit ? 1 : 0;
        }
        for (int d = 0; d < job.dim; ++d) small[d] = static_cast<uint8_t>(index[d]);
        uint8_t* out = packed + static_cast<size_t>(i) * layout.bytes;
        if (job.nbits == 4) pack_row<4>(small, layout.bytes, out);
        else if (job.nbits == 2) pack_row<2>(small, layout.bytes, out);
        else pack_row<1>(small, layout.bytes, out);
    }
}

void quantise(const QuantiseJob& job, int64_t first, int64_t last, uint8_t* packed,
              float* factor) {
    if (!job.trellis) quantise_plain(job, first, last, packed, factor);
    else if (job.nbits == 4) quantise_trellis<4>(job, first, last, packed, factor);
    else if (job.nbits == 2) quantise_trellis<2>(job, first, last, packed, factor);
    else quantise_trellis<1>(job, first, last, packed, factor);
}

void reconstruct(const ReconstructJob& job, int64_t first, int64_t last, float* out) {
    const Layout layout(job.dim, job.nbits);
    const unsigned mask = (1u << job.nbits) - 1;
    for (int64_t i = first; i < last; ++i) {
        const uint8_t* bytes = job.packed + static_cast<size_t>(i) * layout.bytes;
        const float* c = job.centroids + static_cast<size_t>(job.codes[i]) * job.dim;
        float* x = out + static_cast<size_t>(i) * job.dim;
        unsigned one = 0, two = 0;  // lowest bits of the two symbols before
        for (int d = 0; d < job.dim; ++d) {
            const unsigned symbol = bytes[d / layout.per] >> (d % layout.per * job.nbits) & mask;
            if (d % (16 * layout.per) == 0) one = two = 0;
            x[d] = job.levels[job.trellis ? (one << job.nbits) + (symbol ^ two) : symbol] *
                   job.scale[d];
            two = one, one = symbol & 1;
        }
        if (job.factor)
            for (int d = 0; d < job.dim; ++d) x[d] *= job.factor[i];
        for (int d = 0; d < job.dim; ++d) x[d] += c[d];
    }
}

void to_bytes(const float* scores, int tokens, int padded, int width, const float* floor,
              float inverse, int64_t first, int64_t last, uint8_t* out) {
    for (int64_t k = first; k < last; ++k) {
        const float* row = scores + static_cast<size_t>(k) * padded;
        uint8_t* bytes = out + static_cast<size_t>(k) * width;
        for (int at = 0; at < padded; at += 8)  // width is at least padded, and so is `floor`
            for (int t = at; t < at + 8; ++t) {
                float value = (row[t] - floor[t]) * inverse + 0.5f;
                value = value < 255.0f ? value : 255.0f;
                bytes[t] = static_cast<uint8_t>(static_cast<int32_t>(value));
            }
        for (int t = tokens; t < width; ++t) bytes[t] = 0;
    }
}

template <class Isa>
constexpr Kernels kernels(const char* name) {
    return {name,
            arrange<Isa>,
            arrange_floats<Isa>,
            arrange_product<Isa>,
            scan<Isa>,
            score<Isa>,
            score_tokens<Isa>,
            half<Isa>,
            product<Isa>,
            nearest<Isa>,
            quantise,
            reconstruct,
            to_bytes};
}

}  // namespace
}  // namespace lateint
