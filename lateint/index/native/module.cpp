// lateint.index._native: numpy arrays in, numpy arrays out. lateint.index.kernels documents and
// checks the arguments' types, shapes and small values before it calls; here stands what only a look
// at the data can tell (codes, offsets, positions), as ValueError. The GIL is released.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "dispatch.h"
#include "threads.h"

namespace nb = nanobind;
using namespace lateint;

template <class T>
using Row = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Matrix = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Maybe = std::optional<Row<T>>;
template <class T>
using Out = nb::ndarray<nb::numpy, T>;

namespace {

const Kernels* chosen = available().front();

// Memory on a cache line's boundary, freed with the array that is made of it.
template <class T>
struct Buffer {
    T* data;
    explicit Buffer(size_t count)
        : data(static_cast<T*>(::operator new(count * sizeof(T) + 64, std::align_val_t(64)))) {}
    ~Buffer() {
        if (data) ::operator delete(data, std::align_val_t(64));
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    Out<T> array(std::initializer_list<size_t> shape) {
        T* given = data;
        nb::capsule owner(given, [](void* p) noexcept {
            ::operator delete(p, std::align_val_t(64));
        });
        data = nullptr;
        return Out<T>(given, shape, owner);
    }
};

void raise(const Fault& fault) {
    if (!fault.what) return;
    const auto text = [](int64_t n) { return std::to_string(n); };
    if (fault.what == kFaultPosition)
        throw std::invalid_argument("positions: holds " + text(fault.value) + "; wanted 0 to " +
                                    text(fault.more - 1));
    if (fault.what == kFaultOffsets)
        throw std::invalid_argument("offsets: document " + text(fault.at) + " is token " +
                                    text(fault.value) + " to " + text(fault.more) +
                                    "; wanted offsets that rise from 0 to the number of tokens");
    throw std::invalid_argument("codes: token " + text(fault.at) + " names centroid " +
                                text(fault.value) + "; there are " + text(fault.more));
}

// What the caller has checked in Python, once more where memory depends on it.
void wanted(bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(what);
}

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

int up(int64_t count, int to) { return static_cast<int>((count + to - 1) / to * to); }

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
    Buffer<int8_t> query;
    Buffer<int32_t> bias;
    Buffer<float> step;
    Buffer<uint8_t> narrow;
    uint8_t levels[16];

    Asked(const Matrix<int8_t>& q8, const Row<float>& steps, const Row<int8_t>& given, int nbits)
        : tokens(static_cast<int>(q8.shape(0))),
          padded(up(tokens, 8)),
          dim(static_cast<int>(q8.shape(1))),
          layout(dim, nbits),
          query(static_cast<size_t>(padded) * static_cast<size_t>(layout.positions)),
          bias(static_cast<size_t>(padded)),
          step(static_cast<size_t>(padded)),
          narrow(static_cast<size_t>(padded / 8)) {
        chosen->arrange(q8.data(), tokens, padded, dim, layout, query.data);
        int low = 127, high = -128;
        for (int i = 0; i < 1 << nbits; ++i) {
            low = std::min<int>(low, given.data()[i]);
            high = std::max<int>(high, given.data()[i]);
        }
        wanted(high - low <= 127, "levels: span more than 127");
        for (int i = 0; i < 16; ++i)
            levels[i] = static_cast<uint8_t>(given.data()[i & ((1 << nbits) - 1)] - low);
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
                     layout, {}, query.data, bias.data, step.data, narrow.data};
        std::memcpy(job.levels, levels, sizeof levels);
        return job;
    }
};

Out<float> score(Matrix<int8_t> q8, Row<float> step, Matrix<float> scores, Row<uint16_t> codes,
                 Matrix<uint8_t> packed, Row<int64_t> offsets, Maybe<int64_t> positions,
                 Row<int8_t> levels, Maybe<float> factor, int nbits, int threads) {
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
                        Row<uint16_t> codes, Matrix<uint8_t> packed, Row<int8_t> levels,
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
    chosen->arrange_half(query.data(), tokens, padded, dim, arranged.data);
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

std::tuple<Out<uint8_t>, double, double> table(Matrix<float> scores, int tokens, int width,
                                               int threads) {
    const int64_t rows = static_cast<int64_t>(scores.shape(0));
    const int padded = static_cast<int>(scores.shape(1));
    wanted(rows > 0 && tokens > 0 && tokens <= padded && padded % 8 == 0 && width >= tokens &&
               padded <= kMaxTokens,
           "scores: shape");
    std::vector<float> low(static_cast<size_t>(padded)), high(static_cast<size_t>(padded));
    Buffer<uint8_t> out(static_cast<size_t>(rows) * static_cast<size_t>(width));
    float step = 0.0f;
    double base = 0.0;
    {
        nb::gil_scoped_release released;
        chosen->range(scores.data(), padded, 0, rows, low.data(), high.data());
        for (int t = 0; t < tokens; ++t) {
            step = std::max(step, high[static_cast<size_t>(t)] - low[static_cast<size_t>(t)]);
            base += static_cast<double>(low[static_cast<size_t>(t)]);
        }
        step /= 255.0f;
        const float inverse = step > 0.0f ? 1.0f / step : 0.0f;
        share(rows, 16384, threads, [&](int64_t first, int64_t last) {
            chosen->to_bytes(scores.data(), tokens, padded, width, low.data(), inverse, first, last,
                             out.data);
            return Fault{};
        });
    }
    return {out.array({static_cast<size_t>(rows), static_cast<size_t>(width)}),
            static_cast<double>(step), base};
}

void check_codes(const Row<uint16_t>& codes, size_t centroids) {
    for (size_t i = 0; i < codes.size(); ++i)
        if (codes.data()[i] >= centroids)
            raise({kFaultCode, static_cast<int64_t>(i), codes.data()[i],
                   static_cast<int64_t>(centroids)});
}

Out<uint8_t> quantise(Matrix<float> values, Matrix<float> centroids, Row<uint16_t> codes,
                      Row<float> scale, Row<float> boundaries, int nbits, int threads) {
    const size_t count = values.shape(0);
    const int dim = static_cast<int>(values.shape(1));
    wanted(dim > 0 && dim <= 1024 && static_cast<int>(centroids.shape(1)) == dim &&
               static_cast<int>(scale.size()) == dim && codes.size() == count &&
               boundaries.size() + 1 == size_t{1} << nbits,
           "values: shape");
    check_codes(codes, centroids.shape(0));
    const size_t bytes = static_cast<size_t>(Layout(dim, nbits).bytes);
    Buffer<uint8_t> out(count * bytes);
    {
        nb::gil_scoped_release released;
        share(static_cast<int64_t>(count), 2048, threads, [&](int64_t first, int64_t last) {
            chosen->quantise(values.data(), centroids.data(), codes.data(), scale.data(),
                             boundaries.data(), dim, nbits, first, last, out.data);
            return Fault{};
        });
    }
    return out.array({count, bytes});
}

Out<float> reconstruct(Row<uint16_t> codes, Matrix<uint8_t> packed, Matrix<float> centroids,
                       Row<float> scale, Row<int8_t> levels, Maybe<float> factor, int nbits,
                       int threads) {
    const size_t count = codes.size();
    const int dim = static_cast<int>(centroids.shape(1));
    wanted(dim > 0 && dim <= 1024 && packed.shape(0) == count &&
               static_cast<int>(packed.shape(1)) == Layout(dim, nbits).bytes &&
               static_cast<int>(scale.size()) == dim && levels.size() == size_t{1} << nbits &&
               (!factor || factor->size() == count),
           "packed: shape");
    check_codes(codes, centroids.shape(0));
    Buffer<float> out(count * static_cast<size_t>(dim));
    {
        nb::gil_scoped_release released;
        share(static_cast<int64_t>(count), 2048, threads, [&](int64_t first, int64_t last) {
            chosen->reconstruct(codes.data(), packed.data(), centroids.data(), scale.data(),
                                levels.data(), factor ? factor->data() : nullptr, dim, nbits, first,
                                last, out.data);
            return Fault{};
        });
    }
    return out.array({count, static_cast<size_t>(dim)});
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Kernels of lateint.index; called through lateint.index.kernels.";
    m.def("isa", [] { return std::string(chosen->name); });
    m.def("isas", [] {
        std::vector<std::string> names;
        for (const Kernels* one : available()) names.emplace_back(one->name);
        return names;
    });
    m.def("_set_isa", [](const std::string& name) {  // for the tests; not while kernels run
        for (const Kernels* one : available())
            if (name == one->name) {
                chosen = one;
                return;
            }
        throw std::invalid_argument("no instruction set of that name here: " + name);
    });
    m.def("scan", &scan);
    m.def("scan_many", &scan_many);
    m.def("score", &score);
    m.def("score_tokens", &score_tokens);
    m.def("half", &half);
    m.def("probe", &probe);
    m.def("table", &table);
    m.def("quantise", &quantise);
    m.def("reconstruct", &reconstruct);
}
