// Kernels of building: plain loops that the compiler turns into vectors of this instruction set;
// and the table of all kernels.
#pragma once

#include "kernels_float.h"

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

void quantise(const float* values, const float* centroids, const uint16_t* codes,
              const float* scale, const float* boundaries, int dim, int nbits, int64_t first,
              int64_t last, uint8_t* packed) {
    const Layout layout(dim, nbits);
    const int limits = (1 << nbits) - 1;
    alignas(64) float level[1024];
    alignas(64) int32_t index[1024];
    alignas(64) uint8_t small[1024 + 8] = {};
    for (int64_t i = first; i < last; ++i) {
        const float* x = values + static_cast<size_t>(i) * dim;
        const float* c = centroids + static_cast<size_t>(codes[i]) * dim;
        for (int d = 0; d < dim; ++d) level[d] = (x[d] - c[d]) / scale[d];
        for (int d = 0; d < dim; ++d) index[d] = 0;
        for (int b = 0; b < limits; ++b) {
            const float limit = boundaries[b];
            for (int d = 0; d < dim; ++d) index[d] += level[d] > limit ? 1 : 0;
        }
        for (int d = 0; d < dim; ++d) small[d] = static_cast<uint8_t>(index[d]);
        uint8_t* out = packed + static_cast<size_t>(i) * layout.bytes;
        if (nbits == 4) pack_row<4>(small, layout.bytes, out);
        else if (nbits == 2) pack_row<2>(small, layout.bytes, out);
        else pack_row<1>(small, layout.bytes, out);
    }
}

void reconstruct(const uint16_t* codes, const uint8_t* packed, const float* centroids,
                 const float* scale, const int8_t* levels, const float* factor, int dim, int nbits,
                 int64_t first, int64_t last, float* out) {
    const Layout layout(dim, nbits);
    const unsigned mask = (1u << nbits) - 1;
    float level[16] = {};
    for (int i = 0; i < 1 << nbits; ++i) level[i] = levels[i];
    for (int64_t i = first; i < last; ++i) {
        const uint8_t* bytes = packed + static_cast<size_t>(i) * layout.bytes;
        const float* c = centroids + static_cast<size_t>(codes[i]) * dim;
        float* x = out + static_cast<size_t>(i) * dim;
        for (int d = 0; d < dim; ++d) {
            const unsigned index = bytes[d / layout.per] >> (d % layout.per * nbits) & mask;
            x[d] = level[index] * scale[d];
        }
        if (factor)
            for (int d = 0; d < dim; ++d) x[d] *= factor[i];
        for (int d = 0; d < dim; ++d) x[d] += c[d];
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
