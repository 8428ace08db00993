"""Measurements: latency, throughput, memory, costs, accuracy, and the trade-off between them."""
