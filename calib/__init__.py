"""From images to scales: calibration sets, quantisation and casting of ONNX graphs."""
