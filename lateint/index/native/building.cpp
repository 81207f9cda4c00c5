// Building: quantise, reconstruct, nearest centroids. Arguments as in search.cpp.
#include <algorithm>
#include <cmath>

#include "arrays.h"

namespace lateint {
namespace {

void check_codes(const Row<uint16_t>& codes, size_t centroids) {
    for (size_t i = 0; i < codes.size(); ++i)
        if (codes.data()[i] >= centroids)
            raise({kFaultCode, static_cast<int64_t>(i), codes.data()[i],
                   static_cast<int64_t>(centroids)});
}

std::tuple<Out<uint8_t>, Out<float>> quantise(Matrix<float> values, Matrix<float> centroids,
                                              Row<uint16_t> codes, Row<float> scale,
                                              Maybe<float> boundaries, Levels levels,
                                              Row<float> stretches, double along, int nbits,
                                              int threads) {
    const size_t count = values.shape(0);
    const int dim = static_cast<int>(values.shape(1));
    const bool trellis = is_trellis(levels, nbits);
    wanted(dim > 0 && dim <= 1024 && static_cast<int>(centroids.shape(1)) == dim &&
               static_cast<int>(scale.size()) == dim && codes.size() == count &&
               (trellis || (boundaries && boundaries->size() + 1 == levels.size())) &&
               stretches.size() > 0 && stretches.size() < 1000,
           "values: shape");
    check_codes(codes, centroids.shape(0));
    const QuantiseJob whole{values.data(), centroids.data(), codes.data(), scale.data(),
                            boundaries ? boundaries->data() : nullptr, levels.data(),
                            stretches.data(), dim, nbits, static_cast<int>(stretches.size()),
                            static_cast<float>(along), trellis, nullptr};
    const size_t bytes = static_cast<size_t>(Layout(dim, nbits).bytes);
    Buffer<uint8_t> out(count * bytes);
    Buffer<float> factor(count);
    {
        nb::gil_scoped_release released;
        share(static_cast<int64_t>(count), 512, threads, [&](int64_t first, int64_t last) {
            Buffer<uint8_t> scratch(trellis ? kTrellisScratch : 0);
            QuantiseJob job = whole;
            job.scratch = scratch.data;
            chosen->quantise(job, first, last, out.data, factor.data);
            return Fault{};
        });
    }
    return {out.array({count, bytes}), factor.array({count})};
}

Out<float> reconstruct(Row<uint16_t> codes, Matrix<uint8_t> packed, Matrix<float> centroids,
                       Row<float> scale, Levels levels, Maybe<float> factor, int nbits,
                       int threads) {
    const size_t count = codes.size();
    const int dim = static_cast<int>(centroids.shape(1));
    wanted(dim > 0 && dim <= 1024 && packed.shape(0) == count &&
               static_cast<int>(packed.shape(1)) == Layout(dim, nbits).bytes &&
               static_cast<int>(scale.size()) == dim && (!factor || factor->size() == count),
           "packed: shape");
    check_codes(codes, centroids.shape(0));
    const ReconstructJob job{codes.data(), packed.data(), centroids.data(), scale.data(),
                             levels.data(), factor ? factor->data() : nullptr, dim, nbits,
                             is_trellis(levels, nbits)};
    Buffer<float> out(count * static_cast<size_t>(dim));
    {
        nb::gil_scoped_release released;
        share(static_cast<int64_t>(count), 2048, threads, [&](int64_t first, int64_t last) {
            chosen->reconstruct(job, first, last, out.data);
            return Fault{};
        });
    }
    return out.array({count, static_cast<size_t>(dim)});
}

// Centroids in the lanes of vectors, with half of their squared lengths.
struct Panels {
    int padded;
    Buffer<float> lanes, lead;
    Buffer<uint32_t> names;

    explicit Panels(int most, int dim)
        : padded(up(most, 8)),
          lanes(static_cast<size_t>(padded) * static_cast<size_t>(dim)),
          lead(static_cast<size_t>(padded)),
          names(static_cast<size_t>(padded)) {}

    void fill(const float* centroids, const float* half, const uint32_t* list, int count, int dim) {
        chosen->arrange_floats(centroids, list, count, padded, dim, lanes.data);
        for (int i = 0; i < padded; ++i) {
            const uint32_t name = i < count ? (list ? list[i] : static_cast<uint32_t>(i)) : 0;
            names.data[i] = name;
            lead.data[i] = i < count ? -half[name] : -INFINITY;
        }
    }
    NearestJob job(const float* points, const int64_t* order, int dim) const {
        return {points, order, lanes.data, lead.data, names.data, padded, dim};
    }
};

// The nearest centroid of each point, compared with all.
Out<uint32_t> nearest(Matrix<float> points, Matrix<float> centroids, Row<float> half, int threads) {
    const size_t count = points.shape(0);
    const int dim = static_cast<int>(points.shape(1));
    wanted(dim > 0 && dim <= 1024 && centroids.shape(1) == points.shape(1) &&
               centroids.shape(0) > 0 && half.size() == centroids.shape(0),
           "centroids: shape");
    Panels panels(static_cast<int>(centroids.shape(0)), dim);
    Buffer<uint32_t> out(count);
    {
        nb::gil_scoped_release released;
        panels.fill(centroids.data(), half.data(), nullptr, static_cast<int>(centroids.shape(0)),
                    dim);
        const NearestJob job = panels.job(points.data(), nullptr, dim);
        share(static_cast<int64_t>(count), 512, threads, [&](int64_t first, int64_t last) {
            chosen->nearest(job, first, last, out.data);
            return Fault{};
        });
    }
    return out.array({count});
}

// The nearest centroid of each point among those on the list of its cell. order: points by cell;
// ends: where the points of each cell begin in it, and the end.
Out<uint32_t> nearest_listed(Matrix<float> points, Row<int64_t> order, Row<int64_t> ends,
                             Matrix<float> centroids, Row<float> half, Matrix<uint32_t> lists,
                             int threads) {
    const size_t count = points.shape(0), cells = lists.shape(0);
    const int dim = static_cast<int>(points.shape(1));
    const int listed = static_cast<int>(lists.shape(1));
    wanted(dim > 0 && dim <= 1024 && centroids.shape(1) == points.shape(1) && listed > 0 &&
               half.size() == centroids.shape(0) && order.size() == count &&
               ends.size() == cells + 1,
           "lists: shape");
    for (size_t i = 0; i < cells * static_cast<size_t>(listed); ++i)
        wanted(lists.data()[i] < centroids.shape(0), "lists: name a centroid that is not there");
    for (size_t i = 0; i < count; ++i)
        wanted(order.data()[i] >= 0 && order.data()[i] < static_cast<int64_t>(count),
               "order: names a point that is not there");
    for (size_t i = 0; i < cells; ++i)
        wanted(0 <= ends.data()[i] && ends.data()[i] <= ends.data()[i + 1] &&
                   ends.data()[i + 1] <= static_cast<int64_t>(count),
               "ends: must rise");
    Buffer<uint32_t> out(count);
    std::fill_n(out.data, count, 0u);
    {
        nb::gil_scoped_release released;
        share(static_cast<int64_t>(cells), 1, threads, [&](int64_t first, int64_t last) {
            Panels panels(listed, dim);
            for (int64_t cell = first; cell < last; ++cell) {
                const int64_t low = ends.data()[cell], high = ends.data()[cell + 1];
                if (low == high) continue;
                panels.fill(centroids.data(), half.data(),
                            lists.data() + cell * static_cast<int64_t>(listed), listed, dim);
                chosen->nearest(panels.job(points.data(), order.data(), dim), low, high, out.data);
            }
            return Fault{};
        });
    }
    return out.array({count});
}

}  // namespace

void bind_building(nb::module_& m) {
    m.def("quantise", &quantise);
    m.def("reconstruct", &reconstruct);
    m.def("nearest", &nearest);
    m.def("nearest_listed", &nearest_listed);
}

}  // namespace lateint
