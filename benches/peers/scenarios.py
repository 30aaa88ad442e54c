"""The measurements: a way through one or two proxies, and the load on it."""
import contextlib
import ssl
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from . import load
from .process import HOST, Process, free_ports
from .proxies import APPLICATION, CALLER, DNS, ID, Place, Way, nginx_head, nginx_http

WARM_SECONDS = 1
IDLE_CONNECTIONS = 2000
HTTP1 = Way("http1", "http1", "http1")
HTTP2_BETWEEN = Way("http1", "http2", "http1")
HTTP2 = Way("http2", "http2", "http2")
TCP = Way("tcp", "tcp", "tcp")
ALONE = Way("http1", None, "http1")


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    way: Way
    measure: Callable  # of a stage and the seconds: the figures by measure


class Stage:
    """An application (nginx) and one product's proxies before it, started afresh."""

    def __init__(self, proxy, way, certs, folder):
        self.way, self.certs = way, certs
        self.place = Place(*free_ports(3), certs, folder)
        self.origin, self.proxies = None, {}
        try:
            self.start(proxy)
        except BaseException:
            self.end()
            raise

    def start(self, proxy):
        self.origin = Process(["nginx", "-c", self.origin_file(), "-e", "stderr"], self.place.folder, "origin.log")
        self.origin.until_listening(self.place.app)
        for role in self.way.roles():
            command = proxy.command(role, proxy.file(role, self.way, self.place))
            self.proxies[role] = Process(command, self.place.folder, f"{role}.log")
            self.proxies[role].until_listening(self.place.client if role == CALLER else self.place.between)

    def origin_file(self):
        path, version = self.place.folder / "origin.conf", "http2" if self.way.app == "http2" else ""
        path.write_text(f"""{nginx_head(self.place.folder / "origin")}http {{
 {nginx_http(self.place.folder / "origin")}
 server {{ listen {HOST}:{self.place.app} {version} backlog=4096; location / {{ return 200 {'x' * load.BODY_BYTES}; }} }}
}}
""")
        return str(path)

    def cpu_us(self, roles):
        return sum(process.cpu_us() for role, process in self.proxies.items() if role in roles)

    def rss(self):
        return {role: process.rss() for role, process in self.proxies.items()}

    def own(self):
        return {role: process.own() for role, process in self.proxies.items()}

    def end(self):
        for process in [*self.proxies.values(), *([self.origin] if self.origin else [])]:
            process.end()


@contextlib.contextmanager
def stage(proxy, way, certs):
    with tempfile.TemporaryDirectory(prefix="side-by-side-") as folder:
        Path(folder).chmod(0o755)  # nginx's worker is another user
        one = Stage(proxy, way, certs, Path(folder))
        try:
            if way.between:
                refuses_strangers(one.place.between)
            yield one
        finally:
            one.end()


def refuses_strangers(port):
    """Checks that the proxy refuses a client without a certificate: one that does not would do less work than the others."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError), tls.wrap_socket(socket.create_connection((HOST, port), 5)) as stranger:
        stranger.sendall(load.REQUEST)
        if b" 200 " in stranger.recv(64):  # nginx says in words why it refuses
            raise load.LoadFailed("the application's proxy serves a client that has no certificate")


def certificates(pillion, folder):
    """A CA and both sides' certificates, by `pillion certs`. HAProxy wants certificate and key in one file."""
    def certs(*words):
        subprocess.run([pillion, "certs", *words], check=True, stdout=subprocess.DEVNULL)

    certs("ca", "--out", folder / "ca")
    for role in (CALLER, APPLICATION):
        own = folder / role
        certs("issue", "--ca", folder / "ca", "--spiffe-id", ID + role, "--dns", DNS, "--out", own)
        (own / "tls.pem").write_text((own / "tls.crt").read_text() + (own / "tls.key").read_text())


# --- the loads

def metered(one, roles, work):
    """Returns the figures of the load, and the CPU time of the proxies of these roles for each request."""
    before = one.cpu_us(roles)
    figures = work()
    figures["cpu_us"] = (one.cpu_us(roles) - before) / figures["requests"]
    return figures


def closed(connections, streams=1, is_http1=True):
    def measure(one, seconds):
        def work(seconds):
            return load.closed_loop(one.place.client, seconds, connections, streams, is_http1)

        work(WARM_SECONDS)
        return metered(one, one.way.roles(), lambda: work(seconds))

    return measure


def at_rate(rate):
    def measure(one, seconds):
        def work(seconds):
            return load.open_loop(one.place.client, seconds, rate)

        work(WARM_SECONDS)
        return metered(one, one.way.roles(), lambda: work(seconds))

    return measure


def handshakes(one, seconds):
    def work(seconds):
        return load.handshakes(one.place.between, seconds, one.certs / CALLER)

    work(WARM_SECONDS)
    return metered(one, [APPLICATION], lambda: work(seconds))


def at_rest(one, _):
    """The memory before any request."""
    time.sleep(WARM_SECONDS)
    return {f"rss_mb_{role}": resident / 1e6 for role, resident in one.rss().items()}


def idle(*roles):
    """The memory of a connection in its first seconds of idleness, in proxies that have served a connection before."""
    def measure(one, _):
        with load.held(one.place.client, 1):
            time.sleep(WARM_SECONDS)
            before = one.own()
            with load.held(one.place.client, IDLE_CONNECTIONS):
                after = one.own()
        return {f"idle_bytes_{role}": (after[role] - before[role]) / IDLE_CONNECTIONS for role in roles}

    return measure


SCENARIOS = [
    Scenario("http1-64", "HTTP/1.1, 64 connections", HTTP1, closed(64)),
    Scenario("http1-256", "HTTP/1.1, 256 connections", HTTP1, closed(256)),
    Scenario("rate-1000", "HTTP/1.1, 1,000/s", HTTP1, at_rate(1000)),
    Scenario("rate-5000", "HTTP/1.1, 5,000/s", HTTP1, at_rate(5000)),
    Scenario("http2-64", "HTTP/2 between, 64 connections", HTTP2_BETWEEN, closed(64)),
    Scenario("http2-256", "HTTP/2 between, 256 connections", HTTP2_BETWEEN, closed(256)),
    Scenario("http2-end", "HTTP/2 end to end, 8 × 32 streams", HTTP2, closed(8, 32, is_http1=False)),
    Scenario("plain-64", "one plaintext proxy, 64 connections", ALONE, closed(64)),
    Scenario("tcp-64", "TCP, 64 connections", TCP, closed(64)),
    Scenario("handshakes", "full handshakes, inbound side", HTTP1, handshakes),
    Scenario("idle-http", "idle HTTP/1.1 connection", HTTP1, idle(CALLER)),
    Scenario("idle-tcp", "idle mTLS TCP connection", TCP, idle(CALLER, APPLICATION)),
    Scenario("at-rest", "before any request", HTTP1, at_rest),
]

# Which HTTP version sidecars should speak between them: measured with Pillion alone.
VERSIONS = [
    Scenario(f"{way.between}-of-{what}", f"{title} between, {label}", way, measure)
    for what, label, measure in [*((str(one), f"{one} callers", closed(one)) for one in (1, 8, 64, 256)),
                                ("rate", "1,000/s", at_rate(1000))]
    for title, way in (("HTTP/1.1", HTTP1), ("HTTP/2", HTTP2_BETWEEN))
]
