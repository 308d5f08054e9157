"""How fast metlib is, as ratios taken in one run: `make bench`, or `python -m benchmarks --only search-mini`."""
