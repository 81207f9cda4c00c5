// What the calls from Python share: numpy arrays in and out, and errors.
#pragma once

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

#include "kernels.h"
#include "threads.h"

namespace nb = nanobind;

namespace lateint {

extern const Kernels* chosen;  // module.cpp

template <class T>
using Row = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Matrix = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Levels = nb::ndarray<const int8_t, nb::c_contig, nb::device::cpu>;  // one row or two
template <class T>
using Maybe = std::optional<Row<T>>;
template <class T>
using Out = nb::ndarray<nb::numpy, T>;

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

inline void raise(const Fault& fault) {
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
inline void wanted(bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(what);
}

// Whether these levels are a trellis code's: two rows. Throws where they are no code's of nbits.
inline bool is_trellis(const Levels& levels, int nbits) {
    wanted(nbits == 1 || nbits == 2 || nbits == 4, "nbits: 1, 2 or 4");
    const bool two = levels.ndim() == 2;
    wanted((two || levels.ndim() == 1) && levels.shape(levels.ndim() - 1) == size_t{1} << nbits &&
               (!two || levels.shape(0) == 2),
           "levels: shape");
    return two;
}

inline int up(int64_t count, int to) { return static_cast<int>((count + to - 1) / to * to); }

void bind_search(nb::module_& m);    // search.cpp
void bind_building(nb::module_& m);  // building.cpp

}  // namespace lateint
