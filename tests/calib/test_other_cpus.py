"""The numbers of quantisation and of the losses hold on a CPU without AVX-512 and VNNI, whatever this one has.

torch (``ATEN_CPU_CAPABILITY``), oneDNN (``ONEDNN_MAX_CPU_ISA``) and kdc (``KDC_NO_VNNI``) can be told to do without.
ONNX Runtime has no such setting: without VNNI its kernels sum 8-bit products alike as long as none saturates, which the
7-bit weights that kdc then writes see to.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
OLDER_CPU = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "KDC_NO_VNNI": "1"}
PROOF = """
import torch
from kdc.deploy.machine.passport import has_vnni
assert torch.backends.cpu.get_cpu_capability() in ("AVX2", "DEFAULT"), torch.backends.cpu.get_cpu_capability()
assert has_vnni() is False
"""


@pytest.mark.slow
@pytest.mark.parametrize("tests", ["calib", "distill/methods", "distill/training"])
def test_on_a_cpu_without_avx512_and_vnni(tests: str) -> None:
    environment = os.environ | OLDER_CPU
    subprocess.run([sys.executable, "-c", PROOF], env=environment, check=True, cwd=TESTS.parent)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(TESTS / tests)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=TESTS.parent)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout.splitlines()[-1]
