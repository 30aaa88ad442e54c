"""What a run says of the machine that it was made on."""
import os
import platform
from pathlib import Path


def machine():
    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    linux = ".".join(platform.release().split(".")[:2])
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} CPUs, Linux {linux}"
