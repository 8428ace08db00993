"""The runner that travels with a network in a bundle: numpy and onnxruntime are all it needs."""
