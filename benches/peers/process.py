"""Starts and ends processes, and reads their CPU time and memory from /proc."""
import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path

HOST = "127.0.0.1"
START_SECONDS = 20
# Below the ports that the kernel gives to outgoing connections, so that no connection takes a port before its server.
PORTS = range(12_000, 32_000)


class NotStarted(Exception):
    """A process ended or stayed silent instead of listening."""


def free_ports(count):
    """Returns ports on which no process listens."""
    ports = []
    while len(ports) < count:
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            ports += [] if port in ports else [port]
    return ports


class Process:
    """A program with its children, in a process group of its own."""

    def __init__(self, command, folder, log):
        self.command, self.log = command, Path(folder) / log
        with open(self.log, "wb") as out:
            self.child = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                          start_new_session=True)

    def until_listening(self, port):
        ends = time.monotonic() + START_SECONDS
        while time.monotonic() < ends and self.child.poll() is None:
            with contextlib.suppress(OSError):
                return socket.create_connection((HOST, port), 1).close()
            time.sleep(0.01)
        said = self.log.read_text(errors="replace")[-400:]
        raise NotStarted(f"{self.command[0]} does not listen at port {port}; it said: {said.strip() or 'nothing'}")

    def pids(self):
        """Returns the process and all its descendants."""
        pids = [self.child.pid]
        for pid in pids:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    pids += map(int, children.read_text().split())
        return pids

    def cpu_us(self):
        """Returns the user and system time so far, in microseconds.

        The kernel keeps it in nanoseconds for each thread; /proc/PID/stat would round it to hundredths of a second.
        """
        nanoseconds = 0
        for pid in self.pids():
            for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):
                    nanoseconds += int(thread.read_text().split()[0])
        return nanoseconds / 1000

    def rss(self, of=("VmRSS:",)):
        """Returns the resident memory in bytes, or the parts of it that `of` names."""
        kilobytes = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith(of))
        return kilobytes * 1024

    def own(self):
        """Returns the resident memory without pages of files. The program's are mapped when they are first used."""
        return self.rss(("RssAnon:", "RssShmem:"))

    def end(self):
        for way, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 10)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, way)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(patience)
                break
        self.kill()  # a child of nginx may outlive its master for a moment

    def kill(self):
        """Ends the process and all below it at once, without a drain."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
