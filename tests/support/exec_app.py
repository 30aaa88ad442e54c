"""An application for `pillion exec`. Its argument says what it does; it prints what it sees, a line each."""

import os
import signal
import sys
import time
import urllib.request


def say(text):
    print(text, flush=True)


def signals():
    """Prints the name of each signal, and ends at SIGTERM with the exit code 3."""
    def seen(number, _frame):
        say(signal.Signals(number).name)
        if number == signal.SIGTERM:
            sys.exit(3)
    for name in ("HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "TERM"):
        signal.signal(getattr(signal, "SIG" + name), seen)
    say("started")
    while True:
        time.sleep(0.05)  # pause() can sleep on a signal that has just come


def calls(port):
    """Calls a service when it is told to end, as programs do that must say goodbye."""
    def end(_number, _frame):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"host": "orders"})
        say(f"called {urllib.request.urlopen(request).status}")
        input()  # the test looks at the sidecar meanwhile
        sys.exit(0)
    signal.signal(signal.SIGTERM, end)
    say("started")
    while True:
        time.sleep(0.05)  # pause() can sleep on a signal that has just come


def stubborn():
    """Ignores SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(f"started {os.getpid()}")
    while True:
        time.sleep(0.05)  # pause() can sleep on a signal that has just come


def zombies():
    """Leaves a hundred orphans that end at once, and waits until the process with the ID 1 has collected all of them."""
    for _ in range(100):
        child = os.fork()
        if child == 0:
            if os.fork() != 0:
                os._exit(0)
            os._exit(5)
        os.waitpid(child, 0)
    while zombies_and_all()[0] or zombies_and_all()[1] > 2:
        time.sleep(0.01)
    say(f"all collected, {zombies_and_all()[1]} processes")
    sys.exit(9)


def zombies_and_all():
    """The number of processes that have ended and are not collected, and that of all."""
    states = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                states.append(stat.read().rsplit(")", 1)[1].split()[0])
        except OSError:
            pass  # it was collected meanwhile
    return states.count("Z"), len(states)


def leaves():
    """Ends with the exit code 4 at the next line, and leaves a process that makes an orphan then, and says when it is collected."""
    own = os.getpid()
    if os.fork() == 0:
        while os.path.exists(f"/proc/{own}"):
            time.sleep(0.01)
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            orphan = os.fork()
            if orphan != 0:
                os.write(writes, str(orphan).encode())
            os._exit(0)
        os.waitpid(child, 0)
        orphan = os.read(reads, 32).decode()
        while os.path.exists(f"/proc/{orphan}"):
            time.sleep(0.01)
        say("collected")
        os._exit(0)
    say("started")
    input()
    sys.exit(4)


def files():
    """Prints its limit of open files, its open descriptors, and whether its process group is its own."""
    import resource
    opened = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
    say(f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]} {len(opened)} {os.getpgrp() == os.getpid()}")


def serves(port):
    """Answers requests until SIGTERM, and ends when it has closed its listener, or when its `pillion exec` was killed."""
    import http.server
    import threading

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body leave in one write: a process that ends in between would cut its answer

        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", "8")
            self.end_headers()
            self.wfile.write(b"replica\n")

        def log_message(self, *_words):
            pass

    class Server(http.server.ThreadingHTTPServer):
        parent = os.getppid()

        def service_actions(self):
            if os.getppid() != self.parent:
                os._exit(1)

    server = Server(("127.0.0.1", int(port)), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    say("started")
    server.serve_forever(0.05)


globals()[sys.argv[1]](*sys.argv[2:])
