// Which instruction sets this build holds, and which of them this processor has.
#pragma once

#include <vector>

#include "kernels.h"

#if defined(LATEINT_NEON) && defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace lateint {

inline bool has_avx2() {
#if defined(LATEINT_AVX2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
#else
    return false;
#endif
}

inline bool has_avx512() {
#if defined(LATEINT_SIMDE)
    return true;
#elif defined(LATEINT_AVX512)
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
#else
    return false;
#endif
}

inline bool has_neondot() {
#if defined(LATEINT_SIMDE) || (defined(LATEINT_NEON) && defined(__APPLE__))
    return true;
#elif defined(LATEINT_NEON) && defined(__linux__) && defined(__aarch64__)
    return getauxval(AT_HWCAP) & (1ul << 20);  // HWCAP_ASIMDDP
#else
    return false;
#endif
}

// Best first.
inline std::vector<const Kernels*> available() {
    std::vector<const Kernels*> found;
#if defined(LATEINT_AVX512)
    if (has_avx512()) found.push_back(&kAvx512);
#endif
#if defined(LATEINT_AVX2)
    if (has_avx2()) found.push_back(&kAvx2);
#endif
#if defined(LATEINT_NEON)
    if (has_neondot()) found.push_back(&kNeonDot);
    found.push_back(&kNeon);
#endif
    found.push_back(&kPortable);
    return found;
}

}  // namespace lateint
