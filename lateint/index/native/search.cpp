// Searching: scan, score, half, highest, probe, product, table. lateint.index.kernels documents and checks the
// arguments' types, shapes and small values before it calls; here stands what only a look at the
// data can tell (codes, offsets, positions), as ValueError. The GIL is released.
#include <algorithm>
#include <cmath>
#include <mutex>

#include "arrays.h"

namespace lateint {
namespace {

Documents documents(const Row<int64_t>& offsets, const Maybe<int64_t>& positions, size_t tokens) {
    wanted(offsets.size() > 0, "offsets: empty");
    return {offsets.data(), positions ? positions->data() : nullptr,
            static_cast<int64_t>(offsets.size()) - 1, static_cast<int64_t>(tokens)};
}

int64_t items(const Documents& documents, const Maybe<int64_t>& positions) {
    return positions ? static_cast<int64_t>(positions->size()) : documents.documents;
}

// Documents that hold about `tokens` tokens.
int64_t grain(const Documents& documents, int64_t tokens) {
    return std::max<int64_t>(1, tokens * documents.documents / std::max<int64_t>(1, documents.tokens));
}

ScanJob scan_job(const Matrix<uint8_t>& table, const Row<uint16_t>& codes,
                 const Documents& documents) {
    const int width = static_cast<int>(table.shape(1));
    wanted(width == 16 || (width > 0 && width % 32 == 0), "table: rows of 16 or 32 n bytes");
    return {documents, codes.data(), table.data(), static_cast<int64_t>(table.shape(0)), width};
}

Out<uint32_t> scan(Matrix<uint8_t> table, Row<uint16_t> codes, Row<int64_t> offsets,
                   Maybe<int64_t> positions, int threads) {
    const Documents which = documents(offsets, positions, codes.size());
    const ScanJob job = scan_job(table, codes, which);
    const int64_t count = items(which, positions);
    Buffer<uint32_t> out(static_cast<size_t>(count));
    Fault fault;
    {
        nb::gil_scoped_release released;
        fault = share(count, grain(which, 50000), threads, [&](int64_t first, int64_t last) {
            return chosen->scan(job, first, last, out.data);
        });
    }
    raise(fault);
    return out.array({static_cast<size_t>(count)});
}

Out<uint32_t> scan_many(std::vector<Matrix<uint8_t>> tables, Row<uint16_t> codes,
                        Row<int64_t> offsets, Maybe<int64_t> positions, int threads) {
    const Documents which = documents(offsets, positions, codes.size());
    std::vector<ScanJob> jobs;
    for (const auto& table : tables) jobs.push_back(scan_job(table, codes, which));
    const int64_t count = items(which, positions), queries = static_cast<int64_t>(jobs.size());
    Buffer<uint32_t> out(static_cast<size_t>(count * queries));
    // a piece is one query and a run of documents; each table stays in cache for its run
    const int64_t run = std::max<int64_t>(grain(which, 200000), 1);
    const int64_t runs = (count + run - 1) / run;
    Fault fault;
    {
        nb::gil_scoped_release released;
        fault = share(queries * runs, 1, threads, [&](int64_t first, int64_t last) {
            for (int64_t i = first; i < last; ++i) {
                const int64_t query = i / runs, low = i % runs * run;
                const Fault found =
                    chosen->scan(jobs[static_cast<size_t>(query)], low, std::min(count, low + run),
                                 out.data + query * count);
                if (found.what) return found;
            }
            return Fault{};
        });
    }
    raise(fault);
    return out.array({static_cast<size_t>(queries), static_cast<size_t>(count)});
}

// A query as the kernels want it.
struct Asked {
    int tokens, padded, dim;
    Layout layout;
    bool trellis;
    Buffer<int8_t> query;
    Buffer<int32_t> bias;
    Buffer<float> step;
    Buffer<uint8_t> narrow;
    uint8_t levels[2][16];

    Asked(const Matrix<int8_t>& q8, const Row<float>& steps, const Levels& given, int nbits)
        : tokens(static_cast<int>(q8.shape(0))),
          padded(up(tokens, 8)),
          dim(static_cast<int>(q8.shape(1))),
          layout(dim, nbits),
          trellis(is_trellis(given, nbits)),
          query(static_cast<size_t>(padded) * static_cast<size_t>(layout.positions)),
          bias(static_cast<size_t>(padded)),
          step(static_cast<size_t>(padded)),
          narrow(static_cast<size_t>(padded / 8)) {
        chosen->arrange(q8.data(), tokens, padded, dim, layout, query.data);
        int low = 127, high = -128;
        const int count = static_cast<int>(given.size()), row = 1 << nbits;
        for (int i = 0; i < count; ++i) {
            low = std::min<int>(low, given.data()[i]);
            high = std::max<int>(high, given.data()[i]);
        }
        wanted(high - low <= 127, "levels: span more than 127");
        for (int i = 0; i < 16; ++i) {  // both rows in the first where it has room for them
            levels[0][i] = static_cast<uint8_t>(given.data()[i & (std::min(count, 16) - 1)] - low);
            levels[1][i] = static_cast<uint8_t>(given.data()[(row + i) & (count - 1)] - low);
        }
        for (int t = 0; t < padded; ++t) {
            int32_t sum = 0;
            for (int d = 0; t < tokens && d < dim; ++d)
                sum += q8.data()[static_cast<size_t>(t) * static_cast<size_t>(dim) + d];
            bias.data[t] = low * sum;
            step.data[t] = t < tokens ? steps.data()[t] : 0.0f;
        }
        for (int block = 0; block < padded / 8; ++block)
            narrow.data[block] = groups(q8.data(), 8 * block, high - low);
    }

    // How many groups of four products (4, 2 or 1) can be added in 16 bits without overflow, for
    // any levels up to `span`, for the eight query tokens from `first` on: AVX2's question.
    uint8_t groups(const int8_t* q8, int first, int span) const {
        uint8_t fits = 4;
        std::vector<int> place(static_cast<size_t>(layout.positions), -1);
        for (int d = 0; d < dim; ++d) place[static_cast<size_t>(layout.position(d))] = d;
        for (int t = first; t < std::min(first + 8, tokens); ++t) {
            const int8_t* row = q8 + static_cast<size_t>(t) * static_cast<size_t>(dim);
            for (int p = 0; p < layout.positions; p += 16)
                for (int half = 0; half < 2; ++half) {  // a 16-bit sum has two of each four
                    int above[4] = {}, below[4] = {};
                    for (int g = 0; g < 4; ++g)
                        for (int i = 0; i < 2; ++i) {
                            const int d = place[static_cast<size_t>(p + 4 * g + 2 * half + i)];
                            const int q = d < 0 ? 0 : row[d];
                            (q > 0 ? above : below)[g] += q > 0 ? q : -q;
                        }
                    const auto over = [&](int a, int b) {
                        return std::max(a, b) * span > 32767;
                    };
                    if (over(above[0] + above[1], below[0] + below[1]) ||
                        over(above[2] + above[3], below[2] + below[3]))
                        return 1;
                    if (over(above[0] + above[1] + above[2] + above[3],
                             below[0] + below[1] + below[2] + below[3]))
                        fits = 2;
                }
        }
        return fits;
    }

    ScoreJob job(const Documents& which, const Row<uint16_t>& codes, const Matrix<uint8_t>& packed,
                 const Matrix<float>& scores, const Maybe<float>& factor) const {
        wanted(tokens > 0 && tokens <= kMaxTokens && dim > 0 && dim <= 1024, "query: shape");
        wanted(static_cast<int>(packed.shape(1)) == layout.bytes, "packed: width");
        wanted(packed.shape(0) == codes.size(), "packed: as many rows as codes");
        wanted(static_cast<int>(scores.shape(1)) == padded, "scores: width");
        wanted(!factor || factor->size() == codes.size(), "factor: as many as codes");
        ScoreJob job{which, codes.data(), packed.data(), factor ? factor->data() : nullptr,
                     scores.data(), static_cast<int64_t>(scores.shape(0)), tokens, padded, dim,
                     layout, {}, trellis, query.data, bias.data, step.data, narrow.data};
        std::memcpy(job.levels, levels, sizeof levels);
        return job;
    }
};

Out<float> score(Matrix<int8_t> q8, Row<float> step, Matrix<float> scores, Row<uint16_t> codes,
                 Matrix<uint8_t> packed, Row<int64_t> offsets, Maybe<int64_t> positions,
                 Levels levels, Maybe<float> factor, int nbits, int threads) {
    const Documents which = documents(offsets, positions, codes.size());
    const int64_t count = items(which, positions);
    const Asked asked(q8, step, levels, nbits);
    const ScoreJob job = asked.job(which, codes, packed, scores, factor);
    Buffer<float> out(static_cast<size_t>(count));
    Fault fault;
    {
        nb::gil_scoped_release released;
        const int64_t work = int64_t{4000} * 4096 / (asked.padded * asked.dim) + 1;
        fault = share(count, grain(which, work), threads, [&](int64_t first, int64_t last) {
            return chosen->score(job, first, last, out.data);
        });
    }
    raise(fault);
    return out.array({static_cast<size_t>(count)});
}

Out<float> score_tokens(Matrix<int8_t> q8, Row<float> step, Matrix<float> scores,
                        Row<uint16_t> codes, Matrix<uint8_t> packed, Levels levels,
                        Maybe<float> factor, int nbits) {
    const int64_t count = static_cast<int64_t>(codes.size());
    const Documents which{nullptr, nullptr, 0, count};
    const Asked asked(q8, step, levels, nbits);
    const ScoreJob job = asked.job(which, codes, packed, scores, factor);
    Buffer<float> out(static_cast<size_t>(count) * static_cast<size_t>(asked.tokens));
    Fault fault;
    {
        nb::gil_scoped_release released;
        fault = chosen->score_tokens(job, 0, count, out.data, count);
    }
    raise(fault);
    return out.array({static_cast<size_t>(asked.tokens), static_cast<size_t>(count)});
}

Out<float> half(Matrix<float> query, Matrix<uint16_t> values, Row<int64_t> offsets,
                Maybe<int64_t> positions, int threads) {
    const Documents which = documents(offsets, positions, values.shape(0));
    const int tokens = static_cast<int>(query.shape(0)), dim = static_cast<int>(query.shape(1));
    wanted(tokens > 0 && tokens <= kMaxTokens && dim > 0 && dim <= 1024, "query: shape");
    wanted(values.shape(1) == query.shape(1), "values: width");
    const int padded = up(tokens, 8);
    const int64_t count = items(which, positions);
    Buffer<float> arranged(static_cast<size_t>(padded) * static_cast<size_t>(dim));
    chosen->arrange_floats(query.data(), nullptr, tokens, padded, dim, arranged.data);
    const HalfJob job{which, values.data(), arranged.data, tokens, padded, dim};
    Buffer<float> out(static_cast<size_t>(count));
    Fault fault;
    {
        nb::gil_scoped_release released;
        const int64_t work = int64_t{1000} * 4096 / (padded * dim) + 1;
        fault = share(count, grain(which, work), threads, [&](int64_t first, int64_t last) {
            return chosen->half(job, first, last, out.data);
        });
    }
    raise(fault);
    return out.array({static_cast<size_t>(count)});
}

Out<int64_t> probe(Row<int64_t> list_offsets, Row<uint32_t> list_docs, Row<uint32_t> cells,
                   int64_t documents) {
    wanted(list_offsets.size() > 0 && documents >= 0, "list_offsets: empty");
    const int64_t lists = static_cast<int64_t>(list_offsets.size()) - 1;
    const int64_t entries = static_cast<int64_t>(list_docs.size());
    const int64_t* offsets = list_offsets.data();
    const auto text = [](int64_t n) { return std::to_string(n); };
    std::string wrong;
    std::vector<uint64_t> seen(static_cast<size_t>(documents / 64 + 1));
    std::unique_ptr<Buffer<int64_t>> out;
    size_t count = 0;
    {
        nb::gil_scoped_release released;
        for (size_t i = 0; i < cells.size() && wrong.empty(); ++i) {
            const int64_t cell = cells.data()[i];
            if (cell >= lists) {
                wrong = "cells: names list " + text(cell) + "; there are " + text(lists);
                break;
            }
            const int64_t start = offsets[cell], stop = offsets[cell + 1];
            if (start < 0 || start > stop || stop > entries) {
                wrong = "list_offsets: list " + text(cell) + " is " + text(start) + " to " +
                        text(stop) + " of " + text(entries) +
                        " entries; wanted offsets that rise from 0";
                break;
            }
            for (int64_t at = start; at < stop; ++at) {
                const uint32_t document = list_docs.data()[at];
                if (document >= documents) {
                    wrong = "list_docs: list " + text(cell) + " names document " + text(document) +
                            "; there are " + text(documents);
                    break;
                }
                seen[document / 64] |= uint64_t{1} << document % 64;
            }
        }
        if (wrong.empty()) {
            for (uint64_t word : seen)
                for (; word; word &= word - 1) ++count;
            out = std::make_unique<Buffer<int64_t>>(count);
            size_t at = 0;
            for (size_t i = 0; i < seen.size(); ++i) {
                const uint64_t word = seen[i];
                for (int bit = 0; word >> bit; ++bit) {
                    if (word >> bit & 1) out->data[at++] = static_cast<int64_t>(64 * i) + bit;
                    if (bit == 63) break;
                }
            }
        }
    }
    if (!wrong.empty()) throw std::invalid_argument(wrong);
    return out->array({count});
}

// Rows of the `most` highest scores (finite) of each of the first `tokens` columns, the earlier row first
// among equals; ascending, each once.
Out<uint32_t> highest(Matrix<float> scores, int tokens, int most) {
    const int64_t rows = static_cast<int64_t>(scores.shape(0));
    const int padded = static_cast<int>(scores.shape(1));
    wanted(tokens > 0 && tokens <= padded && padded % 8 == 0 && most > 0, "scores: shape");
    using Entry = std::pair<float, uint32_t>;
    const auto better = [](const Entry& a, const Entry& b) {
        return a.first != b.first ? a.first > b.first : a.second < b.second;
    };
    std::vector<uint32_t> found;
    {
        nb::gil_scoped_release released;
        // heaps with the worst on top, and its score once a heap is full: few rows come above it
        std::vector<std::vector<Entry>> heaps(static_cast<size_t>(tokens));
        std::vector<float> limit(static_cast<size_t>(padded), INFINITY);
        std::fill_n(limit.data(), tokens, -INFINITY);
        for (int64_t row = 0; row < rows; ++row) {
            const float* score = scores.data() + row * padded;
            for (int at = 0; at < padded; at += 8) {
                int above = 0;
                for (int t = at; t < at + 8; ++t) above |= score[t] > limit[static_cast<size_t>(t)];
                if (!above) continue;
                for (int t = at; t < std::min(at + 8, tokens); ++t) {
                    if (!(score[t] > limit[static_cast<size_t>(t)])) continue;
                    auto& heap = heaps[static_cast<size_t>(t)];
                    if (heap.size() == static_cast<size_t>(most)) {
                        std::pop_heap(heap.begin(), heap.end(), better);
                        heap.pop_back();
                    }
                    heap.emplace_back(score[t], static_cast<uint32_t>(row));
                    std::push_heap(heap.begin(), heap.end(), better);
                    if (heap.size() == static_cast<size_t>(most))
                        limit[static_cast<size_t>(t)] = heap.front().first;
                }
            }
        }
        for (const auto& heap : heaps)
            for (const Entry& entry : heap) found.push_back(entry.second);
        std::sort(found.begin(), found.end());
        found.erase(std::unique(found.begin(), found.end()), found.end());
    }
    Buffer<uint32_t> out(found.size());
    std::copy(found.begin(), found.end(), out.data);
    return out.array({found.size()});
}

using Scored = std::tuple<Out<float>, Out<float>, Out<float>>;

// Scores of all centroids with the query's tokens, and the lowest and highest of each token.
Scored product(Matrix<int8_t> whole, Row<float> steps, Matrix<float> query, int threads) {
    const int64_t rows = static_cast<int64_t>(whole.shape(0));
    const int tokens = static_cast<int>(query.shape(0)), dim = static_cast<int>(query.shape(1));
    wanted(tokens > 0 && tokens <= kMaxTokens && dim > 0 && dim <= 1024, "query: shape");
    wanted(static_cast<int>(whole.shape(1)) == dim && steps.size() == whole.shape(0),
           "whole: shape");
    const int padded = up(tokens, 8);
    const size_t wide = static_cast<size_t>(padded);
    Buffer<float> lanes(wide * static_cast<size_t>(dim + 1)), unit(wide);
    chosen->arrange_product(query.data(), tokens, padded, dim, lanes.data, unit.data);
    const ProductJob job{whole.data(), steps.data(), lanes.data, unit.data, padded, dim};
    Buffer<float> out(static_cast<size_t>(rows) * wide), low(wide), high(wide);
    std::fill_n(low.data, wide, INFINITY);
    std::fill_n(high.data, wide, -INFINITY);
    {
        nb::gil_scoped_release released;
        std::mutex lock;
        share(rows, 4096, threads, [&](int64_t first, int64_t last) {
            Buffer<float> own_low(wide), own_high(wide);
            std::fill_n(own_low.data, wide, INFINITY);
            std::fill_n(own_high.data, wide, -INFINITY);
            chosen->product(job, first, last, out.data, own_low.data, own_high.data);
            const std::lock_guard<std::mutex> guard(lock);
            for (size_t t = 0; t < wide; ++t) {
                low.data[t] = std::min(low.data[t], own_low.data[t]);
                high.data[t] = std::max(high.data[t], own_high.data[t]);
            }
            return Fault{};
        });
    }
    return {out.array({static_cast<size_t>(rows), wide}), low.array({wide}), high.array({wide})};
}

std::tuple<Out<uint8_t>, double, double> table(Matrix<float> scores, Row<float> low,
                                               Row<float> high, int tokens, int width,
                                               int threads) {
    const int64_t rows = static_cast<int64_t>(scores.shape(0));
    const int padded = static_cast<int>(scores.shape(1));
    wanted(rows > 0 && tokens > 0 && tokens <= padded && padded % 8 == 0 && width >= padded &&
               padded <= kMaxTokens && low.size() == scores.shape(1) &&
               high.size() == scores.shape(1),
           "scores: shape");
    Buffer<uint8_t> out(static_cast<size_t>(rows) * static_cast<size_t>(width));
    float step = 0.0f;
    double base = 0.0;
    for (int t = 0; t < tokens; ++t) {
        step = std::max(step, high.data()[t] - low.data()[t]);
        base += static_cast<double>(low.data()[t]);
    }
    step /= 255.0f;
    const float inverse = step > 0.0f ? 1.0f / step : 0.0f;
    {
        nb::gil_scoped_release released;
        share(rows, 16384, threads, [&](int64_t first, int64_t last) {
            chosen->to_bytes(scores.data(), tokens, padded, width, low.data(), inverse, first, last,
                             out.data);
            return Fault{};
        });
    }
    return {out.array({static_cast<size_t>(rows), static_cast<size_t>(width)}),
            static_cast<double>(step), base};
}

}  // namespace

void bind_search(nb::module_& m) {
    m.def("scan", &scan);
    m.def("scan_many", &scan_many);
    m.def("score", &score);
    m.def("score_tokens", &score_tokens);
    m.def("half", &half);
    m.def("highest", &highest);
    m.def("probe", &probe);
    m.def("product", &product);
    m.def("table", &table);
}

}  // namespace lateint
