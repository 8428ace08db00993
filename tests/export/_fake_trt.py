"""The source of a module that stands in for ``tensorrt`` 10: what a builder can do to its caller."""

FAKE = """
import json, os, sys, time
__version__ = os.environ.get("FAKE_VERSION", "10.13.2")
told = {}
class Names:
    def __init__(self, **values): self.__dict__.update(values)
NetworkDefinitionCreationFlag = Names(STRONGLY_TYPED=1)
BuilderFlag = Names(TF32="TF32", REFIT="REFIT", STRIP_PLAN="STRIP_PLAN", VERSION_COMPATIBLE="VERSION_COMPATIBLE")
ProfilingVerbosity = Names(DETAILED="DETAILED")
HardwareCompatibilityLevel = Names(AMPERE_PLUS="AMPERE_PLUS", SAME_COMPUTE_CAPABILITY="SAME")
MemoryPoolType = Names(WORKSPACE="WORKSPACE")
class ILogger:
    ERROR, INTERNAL_ERROR, WARNING = 1, 0, 2
    def __init__(self): pass
class Tensor:
    name, dtype, shape = "image", "DataType.FLOAT", (1, 3, 64, 128)
class Network:
    num_layers = num_inputs = num_outputs = 1
    def get_input(self, i): return Tensor()
    get_output = get_input
class Cache:
    def __init__(self, content): self.content = content
    def serialize(self): return self.content + b"+"
class Config:
    builder_optimization_level = 3
    def __setattr__(self, key, value): told[key] = value; self.__dict__[key] = value
    def set_memory_pool_limit(self, pool, size): told[pool] = size
    def get_memory_pool_limit(self, pool): return told.get(pool, 1 << 30)
    def set_flag(self, flag): told[flag] = True
    def clear_flag(self, flag): told[flag] = False
    def get_flag(self, flag): return told.get(flag, True)
    def create_timing_cache(self, content): return Cache(content)
    def add_optimization_profile(self, profile): pass
    cache = None
    def set_timing_cache(self, cache, mismatch):
        if cache.content == b"foreign": return False
        self.__dict__["cache"] = cache; return True
    def get_timing_cache(self): return self.cache
class Profile:
    def set_shape(self, name, least, usual, most): told["profile"] = [name, least, usual, most]
class Builder:
    def __init__(self, logger):
        self.logger = logger
        if os.environ.get("FAKE_BUILD") == "no driver":
            logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
    def create_network(self, flags): told["flags"] = flags; return Network()
    def create_builder_config(self): return Config()
    def create_optimization_profile(self): return Profile()
    def build_serialized_network(self, network, config):
        how = os.environ.get("FAKE_BUILD", "")
        if how == "sleep":
            open(os.environ["FAKE_PID"], "w").write(str(os.getpid())); time.sleep(60)
        if how.startswith("SIG"):
            import signal
            sys.stderr.write("tactic 0x7 is about to fault\\n"); sys.stderr.flush()
            os.kill(os.getpid(), getattr(signal, how))
        if how == "warn":
            for i in range(50): self.logger.log(ILogger.WARNING, f"layer {i // 2}:\\n  " + 400 * "x")
        if how == "none":
            self.logger.log(ILogger.ERROR, "Error Code 9: no implementation\\n  for node 3"); return None
        return json.dumps(told).encode()
class OnnxParser:
    num_errors = 0
    def __init__(self, network, logger): pass
    def parse(self, content): return len(content) > 100
"""
