"""GPU memory, streams and kernels, through whichever library is installed."""
