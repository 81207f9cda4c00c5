"""The kernels' tests on the instruction sets that this processor lacks: AVX-512 and NEON, emulated.

Needs SIMDe's headers (Debian: libsimde-dev; elsewhere the folder that holds `simde/`, named by
SIMDE_INCLUDE) and a compiler; takes minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HEADERS = Path(os.environ.get("SIMDE_INCLUDE", "/usr/include"))
RUN = """
import importlib.util, sys
import lateint.index
spec = importlib.util.spec_from_file_location("lateint.index._native", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
lateint.index._native = module
assert {"avx512", "neon", "neondot"} <= set(module.isas()), module.isas()
import pytest
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--import-mode=importlib", sys.argv[2]]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no GNU compiler")
@pytest.mark.skipif(not (HEADERS / "simde").is_dir(), reason=f"no SIMDe headers in {HEADERS}")
def test_every_instruction_set_gives_the_reference_s_answers(tmp_path: Path) -> None:
    build = tmp_path / "build"
    source = ROOT / "lateint/index/native"
    configure = [
        "cmake", "-S", str(source), "-B", str(build), "-DLATEINT_SIMDE=ON",
        "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_CXX_FLAGS=-isystem {HEADERS} -O1",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]  # fmt: skip
    for command in (configure, ["cmake", "--build", str(build)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (module,) = build.glob("_native*.so")
    tests = Path(__file__).with_name("test_kernels.py")
    subprocess.run([sys.executable, "-c", RUN, str(module), str(tests)], check=True, cwd=ROOT)
