"""The proxies that are compared: how each is found, configured and started.

All have one worker, TLS 1.3 with AES-128-GCM and no resumption, both sides verified, connections to the next hop kept, no
access log, two further tries for a request that failed, and no limit that the loads reach.
"""
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .process import HOST

CALLER, APPLICATION = "caller", "application"
ID = "spiffe://cluster.local/ns/default/sa/"
DNS = "application.bench.local"
ALPN = {"http1": "http/1.1", "http2": "h2", "tcp": ""}
SUITE = "TLS_AES_128_GCM_SHA256"


@dataclass(frozen=True)
class Way:
    """The protocols on the way: `http1`, `http2` or `tcp`. Without a second proxy `between` is None."""
    client: str
    between: str | None
    app: str

    def roles(self):
        return [APPLICATION, CALLER] if self.between else [CALLER]


@dataclass(frozen=True)
class Place:
    """The ports on the way: of the caller's proxy, of the application's proxy, and of the application."""
    client: int
    between: int
    app: int
    certs: Path
    folder: Path


def said(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout.strip()


class Proxy:
    """One product. `config` gives the text of a role's file."""
    name = suffix = ""

    def __init__(self, binary):
        self.binary = binary

    def version(self):
        return said(self.binary, "--version").split()[-1]

    def takes(self, way):
        return True

    def config(self, role, way, place):
        raise NotImplementedError

    def command(self, role, file):
        raise NotImplementedError

    def file(self, role, way, place):
        path = place.folder / f"{role}{self.suffix}"
        path.write_text(self.config(role, way, place))
        return str(path)


class Pillion(Proxy):
    name, suffix = "Pillion", ".yaml"

    def command(self, role, file):
        return [self.binary, "run", "-c", file]

    def config(self, role, way, place):
        head = (f"workers: 1\nidentity: {{ directory: {place.certs / role} }}\n"
                "tls: { min_version: '1.3', post_quantum: off }\n"
                f"admin: {{ listen: {HOST}:0 }}\nmetrics: {{ listen: {HOST}:0 }}\n")
        return head + (self.inbound(way, place) if role == APPLICATION else self.outbound(way, place))

    def inbound(self, way, place):
        return f"""outbound: off
inbound:
  listen: {HOST}:{place.between}
  app: {HOST}:{place.app}
  mtls: strict
  max_connections: 100000
  ports: {{ {place.app}: {{ protocol: {way.app} }} }}
"""

    def outbound(self, way, place):
        tls = f'{{ mode: mutual, identities: ["{ID}{APPLICATION}"] }}' if way.between else "off"
        return f"""inbound: off
outbound: {{ listen: {HOST}:0 }}
services:
  next:
    listen: {HOST}:{place.client}
    endpoints: ["{HOST}:{place.between if way.between else place.app}"]
    protocol: {way.between or way.app}
    tls: {tls}
    circuit_breaker: {{ max_connections: 100000, max_pending_requests: 100000, max_requests: 100000 }}
"""


class Nginx(Proxy):
    name, suffix = "nginx", ".conf"

    def version(self):
        return said(self.binary, "-v").rpartition("/")[2]

    def takes(self, way):
        return "http2" not in (way.client, way.between, way.app)  # towards upstreams it speaks HTTP/1 alone

    def command(self, role, file):
        return [self.binary, "-c", file, "-p", str(Path(file).parent), "-e", "stderr"]

    def config(self, role, way, place):
        module = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n" if way.app == "tcp" else ""
        block = self.stream if way.app == "tcp" else self.http
        return module + nginx_head(place.folder / role) + block(role, way, place)

    def listen(self, role, place):
        if role == CALLER:
            return f"listen {HOST}:{place.client} backlog=4096;"
        own = place.certs / APPLICATION
        return f"""listen {HOST}:{place.between} ssl backlog=4096;
  ssl_certificate {own}/tls.crt; ssl_certificate_key {own}/tls.key;
  ssl_client_certificate {own}/ca.crt; ssl_verify_client on; ssl_protocols TLSv1.3;
  ssl_conf_command Ciphersuites {SUITE}; ssl_session_tickets off; ssl_session_cache off;"""

    def towards(self, role, way, place):
        """The port of the next hop, and the lines that put mutual TLS on it."""
        if role == APPLICATION or not way.between:
            return place.app, ""
        own = place.certs / CALLER
        return place.between, f"""proxy_ssl_certificate {own}/tls.crt; proxy_ssl_certificate_key {own}/tls.key;
   proxy_ssl_trusted_certificate {own}/ca.crt; proxy_ssl_verify on; proxy_ssl_name {DNS};
   proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3; proxy_ssl_conf_command Ciphersuites {SUITE};
   proxy_ssl_session_reuse off;"""

    def http(self, role, way, place):
        port, tls = self.towards(role, way, place)
        return f"""http {{
 {nginx_http(place.folder / role)}
 upstream next {{ server {HOST}:{port}; keepalive 512; keepalive_requests 1000000000; keepalive_timeout 1h; }}
 server {{
  {self.listen(role, place)}
  location / {{
   proxy_pass {"https" if tls else "http"}://next; proxy_http_version 1.1; proxy_set_header Connection "";
   proxy_set_header Host $host; proxy_connect_timeout 2s; proxy_read_timeout 15s;
   proxy_next_upstream error timeout http_502 http_503; proxy_next_upstream_tries 3;
   {tls}
  }}
 }}
}}
"""

    def stream(self, role, way, place):
        port, tls = self.towards(role, way, place)
        return f"""stream {{
 server {{
  {self.listen(role, place)}
  proxy_pass {HOST}:{port}; proxy_connect_timeout 2s; proxy_timeout 1h;
  {"proxy_ssl on; " + tls if tls else ""}
 }}
}}
"""


def nginx_head(folder):
    return (f"daemon off; pid {folder}.pid; error_log stderr error; worker_processes 1;\n"
            "events { worker_connections 19000; }\n")


def nginx_http(folder):
    kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    paths = " ".join(f"{kind}_temp_path {folder}-{kind};" for kind in kinds)
    return f"access_log off; keepalive_timeout 1h; keepalive_requests 1000000000; {paths}"


class Haproxy(Proxy):
    name, suffix = "HAProxy", ".cfg"

    def version(self):
        return said(self.binary, "-v").split()[2]

    def command(self, role, file):
        return [self.binary, "-db", "-f", file]

    def config(self, role, way, place):
        is_http = way.app != "tcp"
        http = " timeout http-keep-alive 1h\n http-reuse always\n option http-keep-alive\n retry-on all-retryable-errors\n"
        return f"""global
 maxconn 9000
 nbthread 1
 ssl-default-bind-ciphersuites {SUITE}
 ssl-default-server-ciphersuites {SUITE}
 ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
 ssl-default-server-options ssl-min-ver TLSv1.3 no-tls-tickets
 tune.ssl.cachesize 0
 tune.pool-high-fd-ratio 90
 tune.pool-low-fd-ratio 80
defaults
 mode {"http" if is_http else "tcp"}
 retries 2
 timeout connect 2s
 timeout client 1h
 timeout server {"15s" if is_http else "1h"}
{http if is_http else ""}frontend f
 bind {self.bind(role, way, place)}
 maxconn 9000
 default_backend b
backend b
 server s {self.server(role, way, place)} pool-max-conn -1
"""

    def alpn(self, way):
        return f"alpn {ALPN[way.between]}" if ALPN[way.between] else ""

    def bind(self, role, way, place):
        if role == CALLER:
            return f"{HOST}:{place.client} backlog 4096" + (" proto h2" if way.client == "http2" else "")
        own = place.certs / APPLICATION
        return (f"{HOST}:{place.between} backlog 4096 ssl crt {own}/tls.pem ca-file {own}/ca.crt verify required "
                + self.alpn(way))

    def server(self, role, way, place):
        if role == APPLICATION or not way.between:
            return f"{HOST}:{place.app}" + (" proto h2" if way.app == "http2" else "")
        own = place.certs / CALLER
        return (f"{HOST}:{place.between} ssl crt {own}/tls.pem ca-file {own}/ca.crt verify required no-ssl-reuse "
                f"sni str({DNS}) verifyhost {DNS} {self.alpn(way)}")


class Envoy(Proxy):
    name, suffix = "Envoy", ".yaml"
    V3 = "type.googleapis.com/envoy.extensions"

    def version(self):
        return said(self.binary, "--version").split("/")[-4]  # COMMIT/VERSION/STATE/BUILD/TLS

    def command(self, role, file):
        return [self.binary, "-c", file, "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]

    def config(self, role, way, place):
        is_last = role == APPLICATION or not way.between
        filters = self.tcp() if way.app == "tcp" else self.http()
        tls_in = f", transport_socket: {self.tls('Downstream', way, place)}" if role == APPLICATION else ""
        tls_out = "" if is_last else f"transport_socket: {self.tls('Upstream', way, place)}"
        return f"""static_resources:
  listeners:
  - name: l
    address: {self.address(place.client if role == CALLER else place.between)}
    filter_chains: [{{ filters: [{filters}]{tls_in} }}]
  clusters:
  - name: next
    type: STATIC
    connect_timeout: 2s
    load_assignment:
      cluster_name: next
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {self.address(place.app if is_last else place.between)} }} }}] }}]
    circuit_breakers: {{ thresholds: [{{ max_connections: 100000, max_pending_requests: 100000, max_requests: 100000 }}] }}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": {self.V3}.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ {self.spoken(way.app if is_last else way.between)}: {{}} }}
    {tls_out}
"""

    def address(self, port):
        return f"{{ socket_address: {{ address: {HOST}, port_value: {port} }} }}"

    def spoken(self, version):
        return "http2_protocol_options" if version == "http2" else "http_protocol_options"

    def tcp(self):
        return f"""{{
      name: tcp,
      typed_config: {{ "@type": {self.V3}.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: next }} }}"""

    def http(self):
        # `openssl s_time` sends HTTP/1.0 without a host, and waits for the close.
        return f"""{{
      name: http,
      typed_config: {{
        "@type": {self.V3}.filters.network.http_connection_manager.v3.HttpConnectionManager,
        stat_prefix: h, codec_type: AUTO, generate_request_id: false, delayed_close_timeout: 0s,
        http_protocol_options: {{ accept_http_10: true, default_host_for_http_10: bench }},
        route_config: {{ virtual_hosts: [{{ name: all, domains: ["*"], routes: [{{
          match: {{ prefix: / }},
          route: {{ cluster: next, timeout: 15s,
                   retry_policy: {{ retry_on: "5xx,reset,connect-failure", num_retries: 2 }} }} }}] }}] }},
        http_filters: [{{ name: router, typed_config: {{ "@type": {self.V3}.filters.http.router.v3.Router }} }}] }} }}"""

    def tls(self, side, way, place):
        """Mutual TLS, towards callers (`Downstream`) or towards the application's proxy (`Upstream`)."""
        is_server = side == "Downstream"
        own, other = (APPLICATION, CALLER) if is_server else (CALLER, APPLICATION)
        files = place.certs / own
        no_resumption = ("require_client_certificate: true, disable_stateless_session_resumption: true, "
                         "disable_stateful_session_resumption: true" if is_server else f"sni: {DNS}, max_session_keys: 0")
        return f"""{{
      name: tls,
      typed_config: {{
        "@type": {self.V3}.transport_sockets.tls.v3.{side}TlsContext,
        {no_resumption},
        common_tls_context: {{
          alpn_protocols: [{ALPN[way.between]}],
          tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }},
          tls_certificates: [{{ certificate_chain: {{ filename: {files}/tls.crt }},
                               private_key: {{ filename: {files}/tls.key }} }}],
          validation_context: {{
            trusted_ca: {{ filename: {files}/ca.crt }},
            match_typed_subject_alt_names: [{{ san_type: URI, matcher: {{ exact: "{ID}{other}" }} }}] }} }} }} }}"""


def installed(pillion, wanted):
    """Returns the wanted proxies that are installed, and prints for each other one why it is left out."""
    places = {Pillion: pillion, Nginx: shutil.which("nginx"), Haproxy: shutil.which("haproxy"),
              Envoy: os.environ.get("ENVOY") or shutil.which("envoy")}
    found = []
    for kind, binary in places.items():
        if kind.name.lower() not in wanted:
            continue
        if binary and os.access(binary, os.X_OK):
            found.append(kind(str(Path(binary).absolute())))
        else:
            hint = "name its path in $ENVOY" if kind is Envoy else "build it first" if kind is Pillion else "install it"
            print(f"{kind.name} is left out, because it is not here: {hint}.", flush=True)
    return found
