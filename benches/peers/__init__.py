"""The rooms of `benches/side-by-side.py`: processes, proxies, loads, scenarios, figures."""
