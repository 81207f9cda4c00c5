"""Without an optional package the error ends in what to install; whether it is there or not."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llamaindex", "llama_index", "llamaindex"),
        ("haystack", "haystack", "haystack"),
    ],
)
def test_without_the_package_the_error_says_what_to_install(
    module: str, package: str, extra: str
) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "try:\n"
        f"    import lateint.integrations.{module}\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip().endswith(f"pip install 'lateint[{extra}]'"), told.stdout


def test_without_onnxruntime_too() -> None:
    code = (
        "import sys\n"
        "import importlib.util as util\n"
        "found = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'onnxruntime' else found(name, *a)\n"
        "from modalities.onnx import _need\n"
        "try:\n"
        "    _need('onnxruntime')\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip().endswith("pip install 'lateint[onnx]'")
