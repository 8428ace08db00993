"""TensorRT's real bindings of both majors under libraries that are compiled here, and a process that uses them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdc.deploy.gpu.kernels import SOURCE

from .._lacking import lacking

HERE = Path(__file__).parent
WHEELS = {
    version: f"tensorrt-cu13-bindings=={version}{hashes}"
    for version, hashes in re.findall(
        r"^tensorrt-cu13-bindings==([\d.]+)((?: \\\n    --hash=\S+)+)", (HERE / "wheels.txt").read_text(), re.MULTILINE
    )
}
#: what `import tensorrt` finds: the package of that name only fetches libraries and passes the bindings on
SHIM = "import sys\nimport tensorrt_bindings\nsys.modules[__name__] = tensorrt_bindings\n"

#: what the inspector says of an engine, in half precision or not: synthetic, from the documented schema of TensorRT 11
LAYERS = {
    half: {
        "Layers": [
            {
                "Name": "conv1",
                "LayerType": "CaskConvolution",
                "Inputs": [{"Name": "image", "Dimensions": [2, 3, 4, 6], "Format": "kCHW", "DataType": dtype}],
                "Outputs": [{"Name": "out", "Dimensions": [2, 3, 4, 6], "Format": "kCHW", "DataType": dtype}],
                "Weights": {"Type": dtype, "Count": 9},
            },
            {"Name": "Reformatting CopyNode", "LayerType": "Reformat", "Inputs": [], "Outputs": []},
        ]
    }
    for half, dtype in ((True, "Half"), (False, "Float"))
}


@pytest.fixture(scope="session", params=WHEELS)
def bindings(request: pytest.FixtureRequest) -> Path:
    """Return a folder that holds the bindings of one version; fetched once, and kept below ``build/``."""
    version = request.param
    home = HERE.parents[1] / "build" / "trt_contract"
    folder = home / f"{version}-{sys.implementation.cache_tag}"
    if folder.exists():
        return folder
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if uv is None:
        lacking("uv, which fetches the bindings, is not installed")
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as beside:
        wanted, made = Path(beside) / "wheels.txt", Path(beside) / "made"
        wanted.write_text(WHEELS[version])
        command = [uv, "pip", "install", "--python", sys.executable, "--no-deps", "--require-hashes"]
        done = subprocess.run(
            [*command, "--target", made, "-r", wanted],
            env=os.environ | {"UV_SYSTEM_CERTS": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            lacking(f"TensorRT's bindings {version} cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
        (made / "tensorrt.py").write_text(SHIM)
        if not folder.exists():  # another worker may have been quicker
            made.rename(folder)
    return folder


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the libraries that stand in for TensorRT's (both majors) and for the driver's."""
    compiler = shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        lacking("a Linux with g++ is needed, which compiles what stands in for TensorRT's libraries")
    folder = tmp_path_factory.mktemp("libraries")

    def compile(name: str, text: str) -> None:
        shared = ["-shared", "-fPIC", "-O1", "-std=c++17", f"-Wl,-soname,{name}", "-x", "c++", "-", "-ldl"]
        command = [compiler, *shared, f"-I{HERE}", "-o", str(folder / name)]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    for major in (10, 11):
        compile(f"libnvinfer.so.{major}", (HERE / "stub_tensorrt.cpp").read_text())
        for name in ("libnvinfer_plugin", "libnvonnxparser"):
            compile(f"{name}.so.{major}", "")
    compile("libcuda.so.1", f'#include "host_cuda.h"\n{SOURCE}\n{(HERE / "stub_cuda.cpp").read_text()}')
    return folder


@pytest.fixture
def session(bindings: Path, libraries: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return what calls functions of ``session.py`` in a process with the bindings, in a folder of its own.

    ``session((name, arguments), ..., HEAD="logits")`` gives the list of their results; other keywords are what the
    stand-ins read from the environment, without ``STUB_``. ``half`` is what the inspector says.
    """

    def call(*steps: tuple[str, dict[str, Any]], half: bool = False, **stub: str) -> list[Any]:
        layers = tmp_path / "layers.json"
        layers.write_text(json.dumps(LAYERS[half]))
        stub["LAYERS"] = str(layers)
        env = os.environ | {"LD_LIBRARY_PATH": str(libraries)} | {f"STUB_{key}": value for key, value in stub.items()}
        env["PYTHONPATH"] = os.pathsep.join([str(bindings), *(path for path in sys.path if path)])
        command = [sys.executable, str(HERE / "session.py"), json.dumps(steps)]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
        return json.loads(done.stdout.splitlines()[-1])

    return call
