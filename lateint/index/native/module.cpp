// lateint.index._native: the module, and which instruction set it uses.
#include "arrays.h"
#include "dispatch.h"

namespace lateint {

const Kernels* chosen = available().front();

}  // namespace lateint

using namespace lateint;

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
    bind_search(m);
    bind_building(m);
}
