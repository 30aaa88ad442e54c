"""The modules of `benches/side-by-side.py` and `benches/resilience.py`."""
