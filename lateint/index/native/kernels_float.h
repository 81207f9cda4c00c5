// Kernels in floats: exact MaxSim over float16 tokens, query times centroids, nearest centroids.
//
// All three are products of rows (document tokens, centroids, points) with what was laid out in the
// lanes of vectors beforehand (query tokens, query tokens, centroids): `multiply` is their one loop.
#pragma once

#include <type_traits>

#include "kernels_int.h"

namespace lateint {
namespace {

constexpr int kRows = kBuffer / 2;  // floats of rows that are held in the first-level cache

// [vector][dimension][row of the vector]: the vector that begins at row t lies at t * dim. Rows
// beyond `count` are zero. names: which rows; null: the first `count`.
template <class Isa>
void arrange_floats(const float* rows, const uint32_t* names, int count, int padded, int dim,
                    float* out) {
    each_vector<Isa>(padded, [&](int at, int lanes) {
        float* block = out + static_cast<size_t>(at) * dim;
        for (int lane = 0; lane < lanes; ++lane) {
            const int row = at + lane;
            if (row >= count) {
                for (int d = 0; d < dim; ++d) block[d * lanes + lane] = 0.0f;
                continue;
            }
            const float* x = rows + static_cast<size_t>(names ? names[row] : row) * dim;
            for (int d = 0; d < dim; ++d) block[d * lanes + lane] = x[d];
        }
    });
}

// acc += rows (DOCS of them, `stride` floats apart) times QV vectors of lanes.
template <class Unit, int DOCS, int QV>
inline void multiply(const float* lanes, int dim, const float* const (&rows)[DOCS],
                     typename Unit::F (&acc)[DOCS][QV]) {
    for (int i = 0; i < dim; ++i) {
        typename Unit::F q[QV];
        for (int v = 0; v < QV; ++v)
            q[v] = Unit::load(lanes + (static_cast<size_t>(v) * dim + i) * Unit::W);
        for (int d = 0; d < DOCS; ++d) {
            const auto x = Unit::splat(rows[d][i]);
            for (int v = 0; v < QV; ++v) acc[d][v] = Unit::fma(x, q[v], acc[d][v]);
        }
    }
}

// Calls visit<Unit, QV>(at) for runs of 2 or 1 vectors, so that lanes 0 to padded are covered.
template <class Isa, class Visit>
inline void each_run(int padded, Visit visit) {
    using Main = typename Isa::Main;
    using Rest = typename Isa::Rest;
    int at = 0;
    for (; at + 2 * Main::W <= padded; at += 2 * Main::W)
        visit.template operator()<Main, 2>(at);
    for (; at + Main::W <= padded; at += Main::W) visit.template operator()<Main, 1>(at);
    if (Main::W != Rest::W && at < padded) visit.template operator()<Rest, 1>(at);
}

// Calls finish(row, acc) for rows from to count of products with QV vectors, DOCS rows at a time,
// then half of that, ... ; start(acc) sets the sums that the products are added to.
template <class Unit, int DOCS, int QV, class Row, class Start, class Finish>
inline void each_tile(const float* lanes, int dim, int from, int count, Row row, Start start,
                      Finish finish) {
    for (; from + DOCS <= count; from += DOCS) {
        const float* rows[DOCS];
        typename Unit::F acc[DOCS][QV];
        for (int d = 0; d < DOCS; ++d) {
            rows[d] = row(from + d);
            for (int v = 0; v < QV; ++v) acc[d][v] = start(v);
        }
        multiply<Unit, DOCS, QV>(lanes, dim, rows, acc);
        for (int d = 0; d < DOCS; ++d) finish(from + d, acc[d]);
    }
    if constexpr (DOCS > 1)
        if (from < count)
            each_tile<Unit, DOCS / 2, QV>(lanes, dim, from, count, row, start, finish);
}

template <int QV>
constexpr int rows_in_flight() {
    return QV == 2 ? 4 : 8;
}

// ---- half

struct HalfRun {
    const HalfJob& job;
    const float* buffer;
    int count;
    float* best;

    template <class Unit, int QV>
    inline void operator()(int at) const {
        typename Unit::F local[QV];
        for (int v = 0; v < QV; ++v) local[v] = Unit::load(best + at + v * Unit::W);
        each_tile<Unit, rows_in_flight<QV>(), QV>(
            job.query + static_cast<size_t>(at) * job.dim, job.dim, 0, count,
            [&](int i) { return buffer + static_cast<size_t>(i) * job.dim; },
            [](int) { return Unit::splat(0.0f); },
            [&](int, typename Unit::F (&acc)[QV]) {
                for (int v = 0; v < QV; ++v) local[v] = Unit::max(local[v], acc[v]);
            });
        for (int v = 0; v < QV; ++v) Unit::store(best + at + v * Unit::W, local[v]);
    }
};

template <class Isa>
Fault half(const HalfJob& job, int64_t first, int64_t last, float* out) {
    alignas(64) float buffer[kRows];
    alignas(64) float best[kMaxTokens + 16];
    const int most = kRows / job.dim;
    for (int64_t i = first; i < last; ++i) {
        int64_t start, stop;
        const Fault fault = job.documents.span(i, start, stop);
        if (fault.what) return fault;
        const int64_t ahead = job.documents.positions ? job.documents.peek(i + 1, last) : -1;
        if (ahead >= 0) prefetch(job.values + static_cast<size_t>(ahead) * job.dim);
        for (int t = 0; t < job.padded; ++t) best[t] = kLowest;
        for (int64_t low = start; low < stop; low += most) {
            const int count = static_cast<int>(stop - low < most ? stop - low : most);
            Isa::to_float(job.values + static_cast<size_t>(low) * job.dim,
                          static_cast<size_t>(count) * job.dim, buffer);
            each_run<Isa>(job.padded, HalfRun{job, buffer, count, best});
        }
        float sum = start == stop ? kLowest : 0.0f;
        for (int t = 0; t < job.tokens; ++t) sum += best[t];
        out[i] = sum;
    }
    return {};
}

// ---- product: query tokens times centroids, and the range of each query token's scores
//
// Centroids are int8. Where a unit multiplies pairs of 16-bit numbers (kPairs), query tokens become
// integers of up to kPairLimit steps, twice as fast as floats and off by 1e-5 of their size at most.

constexpr float kPairLimit = 16000.0f;  // 1024 dimensions * 127 * 16000 fit 31 bits

// Floats as arrange_floats has them, unit 1; or pairs [vector][dim / 2][row of the vector][2] in
// steps of `unit`.
template <class Isa>
void arrange_product(const float* query, int tokens, int padded, int dim, void* lanes,
                     float* unit) {
    for (int t = 0; t < padded; ++t) unit[t] = 1.0f;
    if constexpr (!Isa::Main::kPairs) {
        arrange_floats<Isa>(query, nullptr, tokens, padded, dim, static_cast<float*>(lanes));
    } else {
        const int pairs = (dim + 1) / 2;
        std::memset(lanes, 0, sizeof(int16_t) * 2 * static_cast<size_t>(pairs * padded));
        each_vector<Isa>(padded, [&](int at, int width) {
            int16_t* block = static_cast<int16_t*>(lanes) + static_cast<size_t>(at) * 2 * pairs;
            for (int lane = 0; lane < width && at + lane < tokens; ++lane) {
                const float* x = query + static_cast<size_t>(at + lane) * dim;
                float most = 0.0f;
                for (int d = 0; d < dim; ++d) most = most < x[d] ? x[d] : most < -x[d] ? -x[d] : most;
                const float inverse = most > 0.0f ? kPairLimit / most : 0.0f;
                unit[at + lane] = most / kPairLimit;
                for (int d = 0; d < dim; ++d) {
                    const float steps = x[d] * inverse;
                    block[(d / 2 * width + lane) * 2 + d % 2] =
                        static_cast<int16_t>(steps < 0.0f ? steps - 0.5f : steps + 0.5f);
                }
            }
        });
    }
}

struct ProductRun {
    const ProductJob& job;
    const void* buffer;  // rows: floats, or int16 with an even number in each
    int64_t first;
    int count;
    float *out, *low, *high;

    template <class Unit, int QV>
    inline void operator()(int at) const {
        using F = typename Unit::F;
        const F minus = Unit::splat(-1.0f);
        F unit[QV], least_[QV], most_[QV];  // least_: of the negated
        for (int v = 0; v < QV; ++v) {
            unit[v] = Unit::load(job.unit + at + v * Unit::W);
            least_[v] = Unit::mul(minus, Unit::load(low + at + v * Unit::W));
            most_[v] = Unit::load(high + at + v * Unit::W);
        }
        const auto finish = [&](int i, F (&acc)[QV]) {
            float* row = out + static_cast<size_t>(first + i) * job.padded + at;
            const F step = Unit::splat(job.steps[first + i]);
            for (int v = 0; v < QV; ++v) {
                const F score = Unit::mul(acc[v], Unit::mul(step, unit[v]));
                Unit::store(row + v * Unit::W, score);
                least_[v] = Unit::max(least_[v], Unit::mul(minus, score));
                most_[v] = Unit::max(most_[v], score);
            }
        };
        constexpr int DOCS = rows_in_flight<QV>();
        if constexpr (Unit::kPairs) {
            const int pairs = (job.dim + 1) / 2;
            const auto* lanes =
                static_cast<const int16_t*>(job.lanes) + static_cast<size_t>(at) * 2 * pairs;
            pair_tiles<Unit, DOCS, QV>(lanes, pairs, 0, finish);
        } else {
            each_tile<Unit, DOCS, QV>(
                static_cast<const float*>(job.lanes) + static_cast<size_t>(at) * job.dim, job.dim,
                0, count,
                [&](int i) {
                    return static_cast<const float*>(buffer) + static_cast<size_t>(i) * job.dim;
                },
                [](int) { return Unit::splat(0.0f); }, finish);
        }
        for (int v = 0; v < QV; ++v) {
            Unit::store(low + at + v * Unit::W, Unit::mul(minus, least_[v]));
            Unit::store(high + at + v * Unit::W, most_[v]);
        }
    }

    template <class Unit, int DOCS, int QV, class Finish>
    inline void pair_tiles(const int16_t* lanes, int pairs, int from, Finish& finish) const {
        static constexpr int32_t zeros[16] = {};
        for (; from + DOCS <= count; from += DOCS) {
            const int16_t* rows =
                static_cast<const int16_t*>(buffer) + static_cast<size_t>(from) * 2 * pairs;
            typename Unit::Acc acc[DOCS][QV];
            for (int d = 0; d < DOCS; ++d)
                for (int v = 0; v < QV; ++v) acc[d][v] = Unit::init(zeros);
            for (int p = 0; p < pairs; ++p)
                for (int d = 0; d < DOCS; ++d)
                    Unit::template pair<QV>(acc[d], rows + 2 * (static_cast<size_t>(d) * pairs + p),
                                            lanes + static_cast<size_t>(p) * 2 * Unit::W,
                                            static_cast<size_t>(pairs) * 2 * Unit::W);
            for (int d = 0; d < DOCS; ++d) {
                typename Unit::F sums[QV];
                for (int v = 0; v < QV; ++v) sums[v] = Unit::whole(acc[d][v]);
                finish(from + d, sums);
            }
        }
        if constexpr (DOCS > 1)
            if (from < count) pair_tiles<Unit, DOCS / 2, QV>(lanes, pairs, from, finish);
    }
};

template <class Isa>
void product(const ProductJob& job, int64_t first, int64_t last, float* out, float* low,
             float* high) {
    constexpr bool kPairs = Isa::Main::kPairs;
    using Number = std::conditional_t<kPairs, int16_t, float>;
    alignas(64) Number buffer[kRows];
    const int width = kPairs ? (job.dim + 1) / 2 * 2 : job.dim;
    const int most = kRows / width;
    for (int64_t k = first; k < last; k += most) {
        const int count = static_cast<int>(last - k < most ? last - k : most);
        const int8_t* whole = job.whole + static_cast<size_t>(k) * job.dim;
        for (int i = 0; i < count; ++i, whole += job.dim) {
            Number* row = buffer + static_cast<size_t>(i) * width;
            for (int d = 0; d < job.dim; ++d) row[d] = whole[d];
            if (width > job.dim) row[job.dim] = 0;
        }
        each_run<Isa>(job.padded, ProductRun{job, buffer, k, count, out, low, high});
    }
}

// ---- nearest

// Centroids `at` on (a block of them) against points; the best of each point so far is kept.
struct NearestRun {
    const NearestJob& job;
    const int64_t* names;  // of the points
    int count;
    float (*scores)[kNearestBlock];
    int from;  // of the block

    template <class Unit, int QV>
    inline void operator()(int at) const {
        const float* lead = job.lead + from + at;
        each_tile<Unit, rows_in_flight<QV>(), QV>(
            job.lanes + static_cast<size_t>(from + at) * job.dim, job.dim, 0, count,
            [&](int i) { return job.points + static_cast<size_t>(names[i]) * job.dim; },
            [&](int v) { return Unit::load(lead + v * Unit::W); },
            [&](int i, typename Unit::F (&acc)[QV]) {
                for (int v = 0; v < QV; ++v) Unit::store(scores[i] + at + v * Unit::W, acc[v]);
            });
    }
};

template <class Isa>
void nearest(const NearestJob& job, int64_t first, int64_t last, uint32_t* out) {
    constexpr int kPoints = 32;
    alignas(64) float scores[kPoints][kNearestBlock];
    for (int64_t low = first; low < last; low += kPoints) {
        const int count = static_cast<int>(last - low < kPoints ? last - low : kPoints);
        int64_t names[kPoints];
        float best[kPoints];
        int which[kPoints];
        for (int i = 0; i < count; ++i) {
            names[i] = job.order ? job.order[low + i] : low + i;
            best[i] = kLowest;
            which[i] = 0;
        }
        for (int from = 0; from < job.padded; from += kNearestBlock) {
            const int width = least(kNearestBlock, job.padded - from);
            each_run<Isa>(width, NearestRun{job, names, count, scores, from});
            for (int i = 0; i < count; ++i) {
                float lanes[8];
                for (int l = 0; l < 8; ++l) lanes[l] = kLowest;
                for (int at = 0; at < width; at += 8)
                    for (int l = 0; l < 8; ++l)
                        lanes[l] = scores[i][at + l] > lanes[l] ? scores[i][at + l] : lanes[l];
                float high = kLowest;
                for (int l = 0; l < 8; ++l) high = lanes[l] > high ? lanes[l] : high;
                if (high > best[i]) {  // of equals the first, as argmax has it
                    int at = 0;
                    while (scores[i][at] != high) ++at;
                    best[i] = high;
                    which[i] = from + at;
                }
            }
        }
        for (int i = 0; i < count; ++i)
            out[names[i]] = job.names ? job.names[which[i]] : static_cast<uint32_t>(which[i]);
    }
}

}  // namespace
}  // namespace lateint
