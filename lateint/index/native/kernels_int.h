// The kernels, once, as templates over a thin layer of operations: an `Isa`.
//
//   Isa::Main, Isa::Rest   vector units; Main::W query tokens (8 or 16) at a time, Rest::W = 8 for
//                          what Main leaves (the same type where Main::W is 8)
//   Unit::Acc, init        W int32 sums
//   Unit::step<DOCS, QV, N>  adds 16 dimensions of DOCS document tokens to DOCS x QV sums
//   Unit::docs(QV)         document tokens in flight with QV vectors of query tokens
//   Unit::F, load, store, splat, max, mul, similar (acc * weight + score), fma
//   Unit::pair, whole      where kPairs: sums of products of pairs of 16-bit numbers, as floats
//   Isa::Bytes             16 bytes: load, store, splat, & | ^, shl, shr (bits may come in from the
//                          byte beside it: mask), before (each byte's predecessor, 0 first), lookup
//                          in 16 levels, choose (by the highest bit of each byte)
//   Isa::Wide              the same for Wide::kPieces pieces of 16 bytes side by side; Wide::Half
//                          for half as many
//   Isa::Row               16 or 32 bytes: load, max, sum (scan)
//   Isa::to_float          float16 -> float32
//
// Residual scoring. A block of tokens is decoded into a buffer in the first-level cache, once for
// all query tokens, then read back four bytes (four dimensions) at a time, each repeated over a
// vector whose lanes are query tokens. Decoding writes planes: a piece of 16 packed bytes gives
// first the low symbol of each byte, then the next (at 4 bits dimensions 0, 2, .. 30, then 1, 3, ..
// 31), which costs a shift, a mask and a table look-up for 16 to 64 dimensions; the query is put in
// the same order beforehand (Layout::position). Maxima stay in registers within a block.
//
// Trellis codes (kernels/__init__.py: TRELLIS) need of the two symbols before each the lowest bit.
// Both come for a whole piece at once, by shifting its bytes as one stream of symbols: `one` holds
// each symbol's predecessor in its place, `two` the one before that.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels.h"

namespace lateint {
namespace {  // every instruction set has its own copy

constexpr int kBuffer = 8192;  // bytes of decoded levels, or floats of a block, in flight
constexpr float kLowest = -INFINITY;

template <int VALUE>
struct Number {
    static constexpr int value = VALUE;
};

inline int least(int a, int b) { return a < b ? a : b; }

inline void prefetch(const void* address) {
#if defined(__GNUC__)
    __builtin_prefetch(address);
#else
    (void)address;
#endif
}

inline Fault check_codes(const uint16_t* codes, int64_t start, int64_t stop, int64_t centroids) {
    uint16_t highest = 0;
    for (int64_t i = start; i < stop; ++i) highest = codes[i] > highest ? codes[i] : highest;
    if (highest < centroids || start == stop) return {};
    for (int64_t i = start; i < stop; ++i)
        if (codes[i] >= centroids) return {kFaultCode, i, codes[i], centroids};
    return {};
}

// ---- scan

template <class Row>
inline uint32_t scan_rows(const uint8_t* table, size_t width, const uint16_t* codes, int64_t n) {
    Row a = Row::load(table + codes[0] * width), b = a;
    int64_t i = 1;
    for (; i + 4 <= n; i += 4) {
        a.max(table + codes[i] * width);
        b.max(table + codes[i + 1] * width);
        a.max(table + codes[i + 2] * width);
        b.max(table + codes[i + 3] * width);
    }
    for (; i < n; ++i) a.max(table + codes[i] * width);
    a.max(b);
    return a.sum();
}

template <class Isa, int WIDTH>  // 16 or 32: known when compiling; 0: any multiple of 32
Fault scan_width(const ScanJob& job, int64_t first, int64_t last, uint32_t* out) {
    const size_t width = WIDTH ? WIDTH : static_cast<size_t>(job.width);
    for (int64_t i = first; i < last; ++i) {
        int64_t start, stop;
        Fault fault = job.documents.span(i, start, stop);
        if (fault.what) return fault;
        if (job.documents.positions) {
            const int64_t ahead = job.documents.peek(i + 4, last);
            if (ahead >= 0)
                for (int64_t at = 0; at < 128; at += 32) prefetch(job.codes + ahead + at);
        }
        fault = check_codes(job.codes, start, stop, job.centroids);
        if (fault.what) return fault;
        uint32_t sum = 0;
        if (stop > start) {
            const uint16_t* codes = job.codes + start;
            if (WIDTH == 16)
                sum = scan_rows<typename Isa::Row16>(job.table, 16, codes, stop - start);
            else
                for (size_t at = 0; at < width; at += 32)
                    sum += scan_rows<typename Isa::Row32>(job.table + at, width, codes,
                                                          stop - start);
        }
        out[i] = sum;
    }
    return {};
}

template <class Isa>
Fault scan(const ScanJob& job, int64_t first, int64_t last, uint32_t* out) {
    if (job.width == 16) return scan_width<Isa, 16>(job, first, last, out);
    if (job.width == 32) return scan_width<Isa, 32>(job, first, last, out);
    return scan_width<Isa, 0>(job, first, last, out);
}

// ---- score

// The planes of one or more pieces, `gap` bytes apart; each writes 16 bytes, and the next covers
// what is too much of them.
template <class B, int NBITS>
inline void plain_planes(B bytes, const uint8_t (&levels)[2][16], uint8_t* out, int gap) {
    const B mask = B::splat((1 << NBITS) - 1);
    for (int plane = 0; plane < 8 / NBITS; ++plane)
        B::lookup(levels[0], B::shr(bytes, plane * NBITS) & mask).store(out + plane * gap, 8 / NBITS);
}

template <class B, int NBITS>
inline void trellis_planes(B bytes, const uint8_t (&levels)[2][16], uint8_t* out, int gap) {
    const B before = B::before(bytes);
    const B coded = B::splat(NBITS == 4 ? 0x11 : NBITS == 2 ? 0x55 : 0xFF);  // lowest bits
    if constexpr (NBITS == 4) {
        const B index = bytes ^ (before & coded), mask = B::splat(15);
        const B low = index & mask, high = B::shr(index, 4) & mask;
        B::choose(B::shl(before, 3), B::lookup(levels[1], low), B::lookup(levels[0], low))
            .store(out, 2);
        B::choose(B::shl(bytes, 7), B::lookup(levels[1], high), B::lookup(levels[0], high))
            .store(out + gap, 2);
    } else {
        // fields of a look-up's index, for every second symbol: the symbol, above it the bit of its
        // predecessor that says which row of levels
        constexpr int FIELD = 2 * NBITS;
        const B own = B::splat(NBITS == 2 ? 0x33 : 0x55), row = B::splat(NBITS == 2 ? 0x44 : 0xAA);
        const B mask = B::splat((1 << FIELD) - 1);
        const auto since = [&](int bits) {  // the stream, later by so many bits
            const B kept = B::splat(0xFF << bits), came = B::splat((1 << bits) - 1);
            return (B::shl(bytes, bits) & kept) | (B::shr(before, 8 - bits) & came);
        };
        const B one = since(NBITS), index = bytes ^ (since(2 * NBITS) & coded);
        const B even = (index & own) | (B::shl(one, NBITS) & row);
        const B odd = (B::shr(index, NBITS) & own) | (one & row);
        for (int plane = 0; plane < 8 / NBITS; ++plane)
            B::lookup(levels[0], B::shr(plane % 2 ? odd : even, plane / 2 * FIELD) & mask)
                .store(out + plane * gap, 8 / NBITS);
    }
}

template <class B, int NBITS, bool TRELLIS>
inline void planes(const uint8_t* packed, const uint8_t (&levels)[2][16], uint8_t* out, int gap) {
    if constexpr (TRELLIS)
        trellis_planes<B, NBITS>(B::load(packed), levels, out, gap);
    else
        plain_planes<B, NBITS>(B::load(packed), levels, out, gap);
}

// Pieces `at` to `end`: as many together as there is room for, the rest by half as many, ...
template <class B, int NBITS, bool TRELLIS>
inline void pieces(int at, int end, const uint8_t* packed, const uint8_t (&levels)[2][16],
                   uint8_t* out) {
    for (; at + B::kPieces <= end; at += B::kPieces)
        planes<B, NBITS, TRELLIS>(packed + 16 * at, levels, out + 16 * (8 / NBITS) * at, 16);
    if constexpr (B::kPieces > 1)
        pieces<typename B::Half, NBITS, TRELLIS>(at, end, packed, levels, out);
}

template <class Isa, int NBITS, bool TRELLIS>
inline void decode(const Layout& layout, const uint8_t* packed, const uint8_t (&levels)[2][16],
                   uint8_t* out) {
    constexpr int PER = 8 / NBITS;
    pieces<typename Isa::Wide, NBITS, TRELLIS>(0, layout.full, packed, levels, out);
    if (!layout.rest) return;
    uint8_t last[16] = {};
    std::memcpy(last, packed + 16 * layout.full, static_cast<size_t>(layout.rest));
    planes<typename Isa::Bytes, NBITS, TRELLIS>(last, levels, out + 16 * PER * layout.full,
                                                layout.gap);
}

struct Block {
    const uint8_t* buffer;  // [count, positions]
    const float* rows[32];  // scores of each token's centroid
    const float* factor;    // of the first token, or null
    int count;
};

template <class Unit, int DOCS, int QV, int N>
inline void tile(const ScoreJob& job, const Block& block, int from, int at,
                 typename Unit::F* best) {
    const size_t width = static_cast<size_t>(job.layout.positions);
    const int8_t* query = job.query + static_cast<size_t>(at) * width;
    const uint8_t* docs = block.buffer + static_cast<size_t>(from) * width;
    typename Unit::Acc acc[DOCS][QV];
    for (int d = 0; d < DOCS; ++d)
        for (int v = 0; v < QV; ++v) acc[d][v] = Unit::init(job.bias + at + v * Unit::W);
    for (size_t p = 0; p < width; p += 16)
        Unit::template step<DOCS, QV, N>(acc, docs + p, width, query + p * Unit::W,
                                         width * Unit::W);
    for (int d = 0; d < DOCS; ++d)
        for (int v = 0; v < QV; ++v) {
            const int t = at + v * Unit::W;
            auto weight = Unit::load(job.step + t);
            if (block.factor) weight = Unit::mul(weight, Unit::splat(block.factor[from + d]));
            best[v] = Unit::max(
                best[v], Unit::similar(acc[d][v], weight, Unit::load(block.rows[from + d] + t)));
        }
}

// Tokens `from` on, DOCS at a time, then half of that, ...
template <class Unit, int DOCS, int QV, int N>
inline void tiles(const ScoreJob& job, const Block& block, int from, int at,
                  typename Unit::F* best) {
    for (; from + DOCS <= block.count; from += DOCS)
        tile<Unit, DOCS, QV, N>(job, block, from, at, best);
    if constexpr (DOCS > 1)
        if (from < block.count) tiles<Unit, DOCS / 2, QV, N>(job, block, from, at, best);
}

template <class Unit, int QV>
inline void columns(const ScoreJob& job, const Block& block, int at, float* best) {
    typename Unit::F local[QV];
    for (int v = 0; v < QV; ++v) local[v] = Unit::load(best + at + v * Unit::W);
    int narrow = 4;
    for (int b = at / 8; b < (at + QV * Unit::W) / 8; ++b) narrow = least(narrow, job.narrow[b]);
    if (!Unit::kNarrow || narrow == 4)
        tiles<Unit, Unit::docs(QV), QV, 4>(job, block, 0, at, local);
    else if (narrow == 2)
        tiles<Unit, Unit::docs(QV), QV, Unit::kNarrow ? 2 : 4>(job, block, 0, at, local);
    else
        tiles<Unit, Unit::docs(QV), QV, Unit::kNarrow ? 1 : 4>(job, block, 0, at, local);
    for (int v = 0; v < QV; ++v) Unit::store(best + at + v * Unit::W, local[v]);
}

// Best similarity of each query token with tokens start to stop, best [padded].
template <class Isa, int NBITS, bool TRELLIS>
inline void score_document(const ScoreJob& job, int64_t start, int64_t stop, int64_t ahead,
                           uint8_t* buffer, float* best) {
    using Main = typename Isa::Main;
    using Rest = typename Isa::Rest;
    const Layout& layout = job.layout;
    const int most = least(32, kBuffer / layout.positions);
    for (int t = 0; t < job.padded; ++t) best[t] = kLowest;
    Block block;
    block.buffer = buffer;
    for (int64_t low = start; low < stop; low += most) {
        block.count = static_cast<int>(stop - low < most ? stop - low : most);
        block.factor = job.factor ? job.factor + low : nullptr;
        for (int i = 0; i < block.count; ++i) {
            block.rows[i] =
                job.scores + static_cast<size_t>(job.codes[low + i]) * static_cast<size_t>(job.padded);
            for (int t = 0; t < job.padded; t += 16) prefetch(block.rows[i] + t);
        }
        const uint8_t* packed = job.packed + static_cast<size_t>(low) * layout.bytes;
        if (ahead >= 0) {  // the same part of the next document
            const int64_t from = ahead + (low - start);
            const int64_t bytes = (from + block.count <= job.documents.tokens)
                                      ? static_cast<int64_t>(block.count) * layout.bytes : 0;
            const uint8_t* next = job.packed + static_cast<size_t>(from) * layout.bytes;
            for (int64_t at = 0; at < bytes; at += 64) prefetch(next + at);
            if (bytes) prefetch(job.codes + from);
        }
        for (int i = 0; i < block.count; ++i)
            decode<Isa, NBITS, TRELLIS>(layout, packed + static_cast<size_t>(i) * layout.bytes, job.levels,
                               buffer + static_cast<size_t>(i) * layout.positions);
        int at = 0;
        for (; at + 2 * Main::W <= job.padded; at += 2 * Main::W)
            columns<Main, 2>(job, block, at, best);
        for (; at + Main::W <= job.padded; at += Main::W) columns<Main, 1>(job, block, at, best);
        if (Main::W != Rest::W && at < job.padded) columns<Rest, 1>(job, block, at, best);
    }
}

struct Scratch {
    alignas(64) uint8_t buffer[kBuffer + 1024 + 64];
    alignas(64) float best[kMaxTokens + 16];
};

template <class Isa, int NBITS, bool TRELLIS>
Fault score_bits(const ScoreJob& job, int64_t first, int64_t last, float* out) {
    Scratch scratch;
    for (int64_t i = first; i < last; ++i) {
        int64_t start, stop;
        Fault fault = job.documents.span(i, start, stop);
        if (!fault.what) fault = check_codes(job.codes, start, stop, job.centroids);
        if (fault.what) return fault;
        score_document<Isa, NBITS, TRELLIS>(job, start, stop, job.documents.peek(i + 1, last),
                                   scratch.buffer, scratch.best);
        float sum = start == stop ? kLowest : 0.0f;
        for (int t = 0; t < job.tokens; ++t) sum += scratch.best[t];
        out[i] = sum;
    }
    return {};
}

template <class Isa, int NBITS, bool TRELLIS>
Fault score_tokens_bits(const ScoreJob& job, int64_t first, int64_t last, float* out,
                        int64_t stride) {
    Scratch scratch;
    const Fault fault = check_codes(job.codes, first, last, job.centroids);
    if (fault.what) return fault;
    for (int64_t i = first; i < last; ++i) {  // each token is a document of its own
        score_document<Isa, NBITS, TRELLIS>(job, i, i + 1, -1, scratch.buffer, scratch.best);
        for (int t = 0; t < job.tokens; ++t) out[t * stride + i] = scratch.best[t];
    }
    return {};
}

// Calls with the job's bits and kind of code known when compiling.
template <class Call>
Fault of_code(const ScoreJob& job, Call call) {
    const auto bits = [&](auto trellis) {
        if (job.layout.nbits == 4) return call(Number<4>(), trellis);
        if (job.layout.nbits == 2) return call(Number<2>(), trellis);
        return call(Number<1>(), trellis);
    };
    return job.trellis ? bits(Number<true>()) : bits(Number<false>());
}

template <class Isa>
Fault score(const ScoreJob& job, int64_t first, int64_t last, float* out) {
    return of_code(job, [&](auto nbits, auto trellis) {
        return score_bits<Isa, nbits.value, trellis.value>(job, first, last, out);
    });
}

template <class Isa>
Fault score_tokens(const ScoreJob& job, int64_t first, int64_t last, float* out, int64_t stride) {
    return of_code(job, [&](auto nbits, auto trellis) {
        return score_tokens_bits<Isa, nbits.value, trellis.value>(job, first, last, out, stride);
    });
}

// The vectors of query tokens: at which token each begins, and how many it holds.
template <class Isa, class Visit>
inline void each_vector(int padded, Visit visit) {
    int at = 0;
    for (; at + Isa::Main::W <= padded; at += Isa::Main::W) visit(at, int(Isa::Main::W));
    if (at < padded) visit(at, int(Isa::Rest::W));
}

// [vector][position / 4][token of the vector][4]; the vector that begins at token t lies at
// t * positions.
template <class Isa>
void arrange(const int8_t* q8, int tokens, int padded, int dim, const Layout& layout,
             int8_t* out) {
    const size_t positions = static_cast<size_t>(layout.positions);
    std::memset(out, 0, positions * static_cast<size_t>(padded));
    each_vector<Isa>(padded, [&](int at, int lanes) {
        int8_t* block = out + static_cast<size_t>(at) * positions;
        for (int d = 0; d < dim; ++d) {
            const int p = layout.position(d);
            int8_t* place = block + (p / 4 * lanes) * 4 + p % 4;
            for (int lane = 0; lane < lanes && at + lane < tokens; ++lane)
                place[lane * 4] = q8[static_cast<size_t>(at + lane) * dim + d];
        }
    });
}

}  // namespace
}  // namespace lateint
