"""What is read from a GPU, against a fake NVML module: nothing here ran on a GPU but the test that is marked so."""

import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

from kdc.deploy.machine.gpu_meter import Meter, Readings, Spread, meter_flags, open_meter, summary
from kdc.deploy.machine.roofline import PEAKS, Roofline, share


class NVMLError(Exception):
    pass


class FakeNvml(ModuleType):
    """Answers as nvidia-ml-py does, in its units; what is in ``silent`` is not supported."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVMLError = NVMLError

    def __init__(self, silent: tuple[str, ...] = ()) -> None:
        super().__init__("pynvml")
        self.silent, self.asked, self.joules = silent, [], 5_000

    def nvmlInit(self) -> None:
        if "init" in self.silent:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"index {index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return f"uuid {uuid}"

    def __getattr__(self, name: str):
        values = {
            "nvmlDeviceGetPowerUsage": 312_500,  # milliwatts
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x1 | 0x4 | 0x40,
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=3 * 2**30),
        }
        if not name.startswith("nvml") or name == "nvmlDeviceGetCurrentClocksEventReasons":
            raise AttributeError(name)

        def call(handle: str, *args: int):
            self.asked.append(handle)
            if name in self.silent:
                raise NVMLError("Not Supported")
            if name == "nvmlDeviceGetTotalEnergyConsumption":
                self.joules += 30_000
                return self.joules  # millijoules
            if name == "nvmlDeviceGetClockInfo":
                return {1: 1500 + 300 * (len(self.asked) > 10), 2: 3201}[args[0]]
            return values[name]

        return call


def read_of(nvml: FakeNvml, turns: int = 2) -> Readings:
    meter, why = open_meter(nvml)
    assert meter is not None and why == ""
    read = Readings()
    for _ in range(turns):
        with meter.turn(read):
            time.sleep(0.06)
    return read


def test_a_turn_is_read_in_watts_joules_and_words():
    result = summary(read_of(FakeNvml()), images=40)
    assert result is not None
    assert result.power_w == Spread(312.5, 312.5, 312.5)
    assert result.sm_mhz is not None and (result.sm_mhz.min, result.sm_mhz.max) == (1500, 1800)
    assert (result.temperature_c, result.memory_mib) == (61, 3072)
    assert result.throttling == ["power cap", "thermal slowdown (hardware)"]  # idle is none
    assert result.energy_per_image_j == pytest.approx(2 * 30 / 40)
    assert result.readings >= 4
    text = "\n".join(meter_flags("a", result))
    assert "a: the GPU held its clocks back (power cap, thermal slowdown (hardware))" in text
    assert "moved between 1500 and 1800 MHz" in text
    assert meter_flags("b", None) == []
    assert list(result.to_dict()) == [
        *("power_w", "sm_mhz", "memory_mhz", "temperature_c", "memory_mib", "throttling"),
        *("energy_per_image_j", "readings"),
    ]


def test_what_a_device_does_not_answer_is_not_measured():
    silent = ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetMemoryInfo")
    result = summary(read_of(FakeNvml(silent)), images=40)
    assert result is not None
    values = result.to_dict()
    assert values["energy_per_image_j"] is None
    assert "power_w" not in values and "memory_mib" not in values
    assert values["temperature_c"] == 61
    assert summary(Readings(), images=40) is None


def test_the_device_is_the_one_that_cuda_takes_first(monkeypatch):
    for visible, handle in (("", "index 0"), ("2,0", "index 2"), ("GPU-7,GPU-8", "uuid GPU-7")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        nvml = FakeNvml()
        meter, _ = open_meter(nvml)
        assert meter is not None
        meter.memory_mib()
        assert nvml.asked == [handle]


def test_without_nvml_it_says_so(monkeypatch):
    assert open_meter(FakeNvml(("init",))) == (None, "NVML does not answer (Driver Not Loaded)")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter, why = open_meter()
    assert meter is None
    assert "pip install 'kdc[gpu]'" in why


def test_roofline_share_by_hand():
    # 50 G MACs x 2 FLOPs x 8 images in 10 ms are 80 TFLOP/s
    result = share("NVIDIA H200", "fp16", None, 50_000_000_000, 8, 10.0)
    assert isinstance(result, Roofline)
    assert result is not None
    assert (result.tflops, result.peak_tflops) == (80.0, 989.5)
    assert result.share == pytest.approx(80 / 989.5, abs=1e-4)
    fp32, tf32 = (share("NVIDIA H200", "fp32", on, 10**9, 1, 1.0) for on in (False, True))
    assert isinstance(fp32, Roofline) and isinstance(tf32, Roofline)
    assert (fp32.kind, tf32.kind) == ("fp32", "tf32")
    assert share("Some GPU", "fp32", False, 10**9, 1, 1.0) == "no peak of fp32 is known for Some GPU"
    assert share("NVIDIA H200", "int8+fp16", False, 10**9, 1, 1.0) == "no peak of int8+fp16 is known for NVIDIA H200"
    assert share("NVIDIA H200", "fp16", False, None, 1, 1.0) == "its multiply-adds are not known"
    assert share(None, "fp16", False, 10**9, 1, 1.0) == "no peak of fp16 is known for this device"


def test_peaks_are_ordered_as_hardware_is():
    for peaks, source in PEAKS.values():
        assert "data sheet" in source
        assert peaks["fp32"] < peaks["fp16"] < peaks["int8"]
        assert peaks.get("bf16", peaks["fp16"]) == peaks["fp16"]


@pytest.mark.gpu
def test_a_real_gpu_answers():
    pytest.importorskip("pynvml")
    meter, why = open_meter()
    assert isinstance(meter, Meter), why
    read = Readings()
    with meter.turn(read):
        time.sleep(0.2)
    result = summary(read, images=1)
    assert result is not None and result.readings >= 2
    assert result.temperature_c and 0 < result.temperature_c < 110
