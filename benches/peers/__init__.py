"""The modules of `benches/side-by-side.py`: processes, proxies, loads, scenarios, figures."""
