"""Open, run, time and compare what exists: runtimes, latency, parity, the report."""
