// What the kernels of one instruction set offer, and the jobs they are given.
//
// No Python in here and no memory management: the files isa_*.cpp are compiled with flags of their
// own, so they hold nothing but code in a namespace of their own and plain loops over plain
// pointers (an inline function of the standard library instantiated there could end up, through the
// linker, on a processor without those instructions).
#pragma once

#include <cstddef>
#include <cstdint>

namespace lateint {

constexpr int kMaxTokens = 4096;  // of one query; see check.py

// The first thing found wrong in the data; `what` null: nothing.
struct Fault {
    const char* what = nullptr;  // one of the kFault* below
    int64_t at = 0, value = 0, more = 0;
};
extern const char kFaultPosition[];  // positions: value; more = documents
extern const char kFaultOffsets[];   // document at: value to more
extern const char kFaultCode[];      // token at names centroid value

// Documents of N tokens, and which of them.
struct Documents {
    const int64_t* offsets;    // [documents + 1]
    const int64_t* positions;  // null: all
    int64_t documents, tokens;

    // First and last token of item i, checked.
    inline Fault span(int64_t i, int64_t& start, int64_t& stop) const {
        const int64_t document = positions ? positions[i] : i;
        if (document < 0 || document >= documents)
            return {kFaultPosition, i, document, documents};
        start = offsets[document];
        stop = offsets[document + 1];
        if (start < 0 || start > stop || stop > tokens)
            return {kFaultOffsets, document, start, stop};
        return {};
    }

    // Where the tokens of an item begin, for prefetching; -1 where it makes no sense.
    inline int64_t peek(int64_t i, int64_t last) const {
        if (i >= last) return -1;
        const int64_t document = positions ? positions[i] : i;
        if (document < 0 || document >= documents) return -1;
        const int64_t start = offsets[document];
        return start < 0 || start >= tokens ? -1 : start;
    }
};

struct ScanJob {
    Documents documents;
    const uint16_t* codes;
    const uint8_t* table;  // [centroids, width]
    int64_t centroids;
    int width;  // 16, or a multiple of 32
};

// Where the packed residual of a token goes when it is decoded: see decode() in kernels_int.h.
struct Layout {
    int nbits, per;         // per: dimensions in a byte
    int bytes;              // of a packed token
    int full, rest, gap;    // whole pieces of 16 bytes; bytes after them; those rounded up to 4
    int positions;          // decoded, rounded up to 16

    Layout(int dim, int nbits_) {
        nbits = nbits_;
        per = 8 / nbits;
        bytes = (dim + per - 1) / per;
        full = bytes / 16;
        rest = bytes % 16;
        gap = (rest + 3) / 4 * 4;
        positions = (per * (16 * full + gap) + 15) / 16 * 16;
    }
    int position(int dim) const {
        const int byte = dim / per, plane = dim % per;
        if (byte < 16 * full) return (byte / 16 * per + plane) * 16 + byte % 16;
        return 16 * full * per + plane * gap + byte - 16 * full;
    }
};

struct ScoreJob {
    Documents documents;
    const uint16_t* codes;
    const uint8_t* packed;  // [tokens, layout.bytes]
    const float* factor;    // [tokens] or null
    const float* scores;    // [centroids, padded]
    int64_t centroids;
    int tokens, padded, dim;  // of the query; padded to 8
    Layout layout;
    uint8_t levels[2][16];   // level - lowest level: 0 to 127; the second row for trellis codes
    bool trellis;
    const int8_t* query;     // made by `arrange`
    const int32_t* bias;     // [padded] lowest level * sum of q8
    const float* step;       // [padded]
    const uint8_t* narrow;   // [padded / 8] groups of four products that 16 bits hold: 4, 2 or 1
};

struct HalfJob {
    Documents documents;
    const uint16_t* values;  // [tokens, dim] float16
    const float* query;      // made by `arrange_floats`
    int tokens, padded, dim;
};

struct ProductJob {
    const int8_t* whole;  // [centroids, dim]
    const float* steps;   // [centroids]
    const void* lanes;    // the query, made by `arrange_product`
    const float* unit;    // [padded] by the same
    int padded, dim;
};

constexpr int kNearestBlock = 128;  // centroids that a point meets at a time

struct NearestJob {
    const float* points;    // [n, dim]
    const int64_t* order;   // which points, or null: all
    const float* lanes;     // centroids, made by `arrange_floats`
    const float* lead;      // [padded] half the squared length of each, negative; lowest in the padding
    const uint32_t* names;  // [padded] what to call each centroid, or null: its number
    int padded, dim;
};

struct QuantiseJob {
    const float* values;      // [tokens, dim]
    const float* centroids;   // [centroids, dim]
    const uint16_t* codes;    // [tokens]
    const float* scale;       // [dim]
    const float* boundaries;  // [levels - 1]; null for trellis codes
    const int8_t* levels;     // [2^nbits], or [2, 2^nbits] for trellis codes
    const float* stretches;   // [stretch]
    int dim, nbits, stretch;
    float along;
    bool trellis;
    void* scratch;            // kTrellisScratch bytes for trellis codes, on a cache line's boundary
};

// Bytes that one piece of work on trellis codes takes: see kernels_trellis.h.
constexpr size_t kTrellisScratch = 1024 * 16 * (3 * sizeof(float) + 4 + 2) + 1024;

struct ReconstructJob {
    const uint16_t* codes;    // [tokens]
    const uint8_t* packed;    // [tokens, bytes]
    const float* centroids;   // [centroids, dim]
    const float* scale;       // [dim]
    const int8_t* levels;     // as in QuantiseJob
    const float* factor;      // [tokens] or null
    int dim, nbits;
    bool trellis;
};

struct Kernels {
    const char* name;
    // The query as the kernels read it: padded * positions values out of [tokens, dim].
    void (*arrange)(const int8_t* q8, int tokens, int padded, int dim, const Layout&, int8_t* out);
    void (*arrange_floats)(const float* rows, const uint32_t* names, int count, int padded,
                           int dim, float* out);
    // lanes: memory of padded * (dim + 1) floats; unit: [padded].
    void (*arrange_product)(const float* query, int tokens, int padded, int dim, void* lanes,
                            float* unit);
    // Items first to last (exclusive); out belongs to item 0.
    Fault (*scan)(const ScanJob&, int64_t first, int64_t last, uint32_t* out);
    Fault (*score)(const ScoreJob&, int64_t first, int64_t last, float* out);
    // Tokens first to last: out[t * stride + token].
    Fault (*score_tokens)(const ScoreJob&, int64_t first, int64_t last, float* out, int64_t stride);
    Fault (*half)(const HalfJob&, int64_t first, int64_t last, float* out);
    // Rows first to last of out [centroids, padded]; low, high [padded] take them in.
    void (*product)(const ProductJob&, int64_t first, int64_t last, float* out, float* low,
                    float* high);
    // Points first to last (of the order): out[point] is its nearest centroid.
    void (*nearest)(const NearestJob&, int64_t first, int64_t last, uint32_t* out);
    // Tokens first to last.
    void (*quantise)(const QuantiseJob&, int64_t first, int64_t last, uint8_t* packed,
                     float* factor);
    void (*reconstruct)(const ReconstructJob&, int64_t first, int64_t last, float* out);
    void (*to_bytes)(const float* scores, int tokens, int padded, int width, const float* floor,
                     float inverse, int64_t first, int64_t last, uint8_t* out);
};

extern const Kernels kPortable;
#if defined(LATEINT_AVX2)
extern const Kernels kAvx2;
#endif
#if defined(LATEINT_AVX512)
extern const Kernels kAvx512;
#endif
#if defined(LATEINT_NEON)
extern const Kernels kNeon;
extern const Kernels kNeonDot;
#endif

}  // namespace lateint
