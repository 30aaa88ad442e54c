"""How long a sidecar takes from its start to its ready line: `ready.py PILLION FILE [STARTS]`. Each one is ended at once."""

import subprocess
import sys
import time

pillion, file, starts = sys.argv[1], sys.argv[2], int((sys.argv + ["20"])[3])
took = []
for _ in range(starts):
    began = time.monotonic()
    process = subprocess.Popen(
        [pillion, "run", "-c", file], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    line = process.stdout.readline()
    took.append((time.monotonic() - began) * 1000)
    process.kill()
    process.wait()
    assert line.startswith("ready "), line
took.sort()
print(f"median {took[len(took) // 2]:.1f} ms, longest {took[-1]:.1f} ms of {starts}")
