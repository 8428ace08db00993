"""PyCUDA's kernels where there is no nvcc: a stand-in for PyCUDA, which does not install without CUDA's headers."""

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kdc.deploy.gpu.device import Gpu
from kdc.distill.errors import ExportError


@pytest.fixture
def pycuda(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Kdc's module on a PyCUDA that notes what it is given; ``nvcc`` says whether it has a compiler."""
    noted: list[Any] = []
    state = SimpleNamespace(nvcc=False, noted=noted)

    class CompileError(Exception):
        """As PyCUDA's."""

    class Module:
        def __init__(self, origin: str) -> None:
            noted.append(origin)

        def get_function(self, name: str) -> Any:
            queue = SimpleNamespace(prepared_async_call=lambda *given: noted.append((name, given)))
            return SimpleNamespace(prepare=lambda types: queue)

    def source_module(text: str, no_extern_c: bool) -> Module:
        if not state.nvcc:
            raise OSError("nvcc was not found (is it on the PATH?)")
        return Module("nvcc")

    context = SimpleNamespace(push=lambda: None, pop=lambda: None)
    driver = SimpleNamespace(
        init=lambda: None,
        Device=lambda number: SimpleNamespace(retain_primary_context=lambda: context),
        Stream=lambda: SimpleNamespace(handle=7, synchronize=lambda: None),
        CompileError=CompileError,
        module_from_buffer=lambda image: Module(f"nvrtc {image!r}"),
    )
    package: Any = ModuleType("pycuda")
    package.driver, package.compiler = driver, SimpleNamespace(SourceModule=source_module)
    for name, module in {"": package, ".driver": driver, ".compiler": package.compiler}.items():
        monkeypatch.setitem(sys.modules, f"pycuda{name}", module)
    monkeypatch.delitem(sys.modules, "kdc.deploy.gpu.pycuda_buffers", raising=False)
    state.module = importlib.import_module("kdc.deploy.gpu.pycuda_buffers")
    yield state
    del sys.modules["kdc.deploy.gpu.pycuda_buffers"]


@pytest.mark.parametrize("nvcc", [True, False])
def test_the_kernels_are_compiled_once_by_whichever_compiler_there_is(
    pycuda: Any, nvcc: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pycuda.nvcc = nvcc
    monkeypatch.setattr(pycuda.module, "compile_kernels", lambda capability: b"cubin for %d.%d" % capability)
    buffers = pycuda.module.PycudaBuffers(Gpu("A10", (8, 6), "13.2"))
    for name in ("argmax_float", "argmax_half"):
        buffers.kernel(name)(300, 1, 2, 3)
    assert pycuda.noted[0] == ("nvcc" if nvcc else "nvrtc b'cubin for 8.6'")
    calls = pycuda.noted[1:]
    assert [name for name, _ in calls] == ["argmax_float", "argmax_half"], "compiled once"
    grid, block, _, *arguments = calls[0][1]
    assert grid[0] * block[0] >= 300 > (grid[0] - 1) * block[0] and arguments == [1, 2, 3]


def test_without_any_compiler_both_are_named(pycuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(_: Any) -> bytes:
        raise ExportError("cuda.bindings.nvrtc is not installed")

    monkeypatch.setattr(pycuda.module, "compile_kernels", lacking)
    with pytest.raises(ExportError, match=r"with nvcc, which failed \(nvcc was not found.*cuda.bindings.nvrtc is not"):
        pycuda.module.PycudaBuffers(Gpu("A10", (8, 6), "13.2")).kernel("argmax_float")
