"""From a checkpoint to a file that another runtime loads: ONNX, then a TensorRT engine."""
