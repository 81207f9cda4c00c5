// Trellis codes: which symbols a token gets (Viterbi's algorithm), kTogether tokens side by side.
//
// kernels/__init__.py says what the code is. A state is the lowest bits of the two symbols before,
// the later one first: 0 to 3. A symbol of lowest bit c leads from state (c1, c2) to (c, c1), to the
// level levels[c1][symbol ^ c2]; so of the levels four subsets count, by their row and their lowest
// bit, and within each only the nearest. Plain loops over lanes: the compiler makes vectors of them.
#pragma once

#include "kernels_int.h"

namespace lateint {
namespace {

constexpr int kTogether = 16;  // tokens side by side
constexpr float kNever = 1e30f;

struct Trellis {
    float left[1024][kTogether];    // what the centroids leave of the tokens
    float token[1024][kTogether];
    float coded[1024][kTogether];   // scale * level
    uint8_t from[1024][4][kTogether];  // into each state: c2, above it the symbol's other bits
    uint8_t symbol[1024][kTogether], best[1024][kTogether];
    float spread[kTogether], weight[kTogether], along[kTogether];

    void set(const QuantiseJob& job, const int64_t (&which)[kTogether]) {
        float squares[kTogether] = {}, both[kTogether] = {}, own[kTogether] = {};
        for (int l = 0; l < kTogether; ++l) {
            const float* x = job.values + static_cast<size_t>(which[l]) * job.dim;
            const float* c = job.centroids + static_cast<size_t>(job.codes[which[l]]) * job.dim;
            for (int d = 0; d < job.dim; ++d) token[d][l] = x[d], left[d][l] = x[d] - c[d];
        }
        for (int d = 0; d < job.dim; ++d)
            for (int l = 0; l < kTogether; ++l) {
                squares[l] += left[d][l] * left[d][l];
                both[l] += left[d][l] * token[d][l];
                own[l] += token[d][l] * token[d][l];
            }
        for (int l = 0; l < kTogether; ++l) {
            along[l] = both[l];
            weight[l] = job.along / (own[l] > 1e-12f ? own[l] : 1e-12f);
            const float size = std::sqrt(squares[l] / static_cast<float>(job.dim));
            spread[l] = size > 1e-9f ? size : 1e-9f;
        }
    }

    // The symbols of smallest squared error of left / (spread stretch) for dimensions first to last,
    // which are one stream: it begins in state 0 and ends in any.
    template <int NBITS>
    void path(const QuantiseJob& job, float stretch, int first, int last) {
        constexpr int ROW = 1 << NBITS, CHOICES = ROW / 2;
        float cost[4][kTogether], unit[kTogether];
        for (int s = 0; s < 4; ++s)
            for (int l = 0; l < kTogether; ++l) cost[s][l] = s ? kNever : 0.0f;
        for (int l = 0; l < kTogether; ++l) unit[l] = 1.0f / (spread[l] * stretch);
        for (int d = first; d < last; ++d) {
            float wanted[kTogether], error[4][kTogether];  // by 2 row + lowest bit
            int32_t choice[4][kTogether];
            for (int l = 0; l < kTogether; ++l) wanted[l] = left[d][l] * unit[l];
            for (int subset = 0; subset < 4; ++subset) {
                float (&least)[kTogether] = error[subset];
                int32_t (&chosen)[kTogether] = choice[subset];
                for (int u = 0; u < CHOICES; ++u) {
                    const int at = subset / 2 * ROW + 2 * u + subset % 2;
                    const float level = static_cast<float>(job.levels[at]) * job.scale[d];
                    for (int l = 0; l < kTogether; ++l) {
                        const float e = wanted[l] - level, square = e * e;
                        const bool better = !u || square < least[l];
                        least[l] = better ? square : least[l];
                        chosen[l] = better ? 2 * u : chosen[l];
                    }
                }
            }
            float next[4][kTogether];
            for (int state = 0; state < 4; ++state) {
                const int c = state & 1, c1 = state >> 1;
                for (int l = 0; l < kTogether; ++l) {
                    const float even = cost[c1][l] + error[2 * c1 + c][l];
                    const float odd = cost[c1 + 2][l] + error[2 * c1 + 1 - c][l];
                    const bool is_odd = odd < even;
                    next[state][l] = is_odd ? odd : even;
                    from[d][state][l] = static_cast<uint8_t>(
                        is_odd ? choice[2 * c1 + 1 - c][l] + 1 : choice[2 * c1 + c][l]);
                }
            }
            for (int s = 0; s < 4; ++s)
                for (int l = 0; l < kTogether; ++l) cost[s][l] = next[s][l];
        }
        int state[kTogether] = {};
        for (int s = 1; s < 4; ++s)
            for (int l = 0; l < kTogether; ++l)
                if (cost[s][l] < cost[state[l]][l]) state[l] = s;
        for (int d = last - 1; d >= first; --d)
            for (int l = 0; l < kTogether; ++l) {
                const int how = from[d][state[l]][l], c = state[l] & 1, c1 = state[l] >> 1;
                const int c2 = how & 1, own = (how & ~1) | c;
                symbol[d][l] = static_cast<uint8_t>(own);
                coded[d][l] = static_cast<float>(job.levels[c1 * ROW + (own ^ c2)]) * job.scale[d];
                state[l] = c1 | c2 << 1;
            }
    }

    // As Residual::fit, for each token.
    void fit(const QuantiseJob& job, float (&gain)[kTogether], float (&factor)[kTogether]) const {
        float a[kTogether] = {}, b[kTogether] = {}, s[kTogether] = {};
        for (int d = 0; d < job.dim; ++d)
            for (int l = 0; l < kTogether; ++l) {
                a[l] += left[d][l] * coded[d][l];
                b[l] += coded[d][l] * coded[d][l];
                s[l] += token[d][l] * coded[d][l];
            }
        for (int l = 0; l < kTogether; ++l) {
            const float top = a[l] + weight[l] * along[l] * s[l];
            factor[l] = top / (b[l] + weight[l] * s[l] * s[l]);
            gain[l] = top > 0.0f ? top * factor[l] : 0.0f;
        }
    }
};
static_assert(sizeof(Trellis) <= kTrellisScratch, "kTrellisScratch: too small");

template <int NBITS>
void quantise_trellis(const QuantiseJob& job, int64_t first, int64_t last, uint8_t* packed,
                      float* factor) {
    const Layout layout(job.dim, NBITS);
    Trellis& work = *static_cast<Trellis*>(job.scratch);
    for (int64_t low = first; low < last; low += kTogether) {
        const int count = static_cast<int>(last - low < kTogether ? last - low : kTogether);
        int64_t which[kTogether];
        for (int l = 0; l < kTogether; ++l) which[l] = low + least(l, count - 1);
        work.set(job, which);
        float most[kTogether];
        for (int l = 0; l < kTogether; ++l) most[l] = -1.0f;
        for (int m = 0; m < job.stretch; ++m) {
            for (int d = 0; d < job.dim; d += 16 * layout.per)
                work.path<NBITS>(job, job.stretches[m], d, least(d + 16 * layout.per, job.dim));
            float gain[kTogether], with[kTogether];
            work.fit(job, gain, with);
            uint8_t better[kTogether];
            for (int l = 0; l < kTogether; ++l) {
                better[l] = gain[l] > most[l] ? 255 : 0;
                most[l] = gain[l] > most[l] ? gain[l] : most[l];
                if (l < count && better[l]) factor[low + l] = with[l];
            }
            for (int d = 0; d < job.dim; ++d)
                for (int l = 0; l < kTogether; ++l)
                    work.best[d][l] = static_cast<uint8_t>((work.symbol[d][l] & better[l]) |
                                                           (work.best[d][l] & ~better[l]));
        }
        for (int l = 0; l < count; ++l) {
            uint8_t* out = packed + static_cast<size_t>(low + l) * layout.bytes;
            for (int b = 0; b < layout.bytes; ++b) {
                unsigned value = 0;
                for (int d = b * layout.per; d < least((b + 1) * layout.per, job.dim); ++d)
                    value |= static_cast<unsigned>(work.best[d][l]) << (d % layout.per * NBITS);
                out[b] = static_cast<uint8_t>(value);
            }
        }
    }
}

}  // namespace
}  // namespace lateint
