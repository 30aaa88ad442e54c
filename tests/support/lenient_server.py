"""Python's http.server, which accepts requests that strict servers refuse. Arguments: address and port."""

import posixpath
import sys
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        claimed = self.headers.get("x-forwarded-client-cert", "")
        path = posixpath.normpath(urllib.parse.unquote(urllib.parse.urlsplit(self.path).path, errors="replace"))
        path += "/" if path != "/" and self.path.endswith("/") else ""
        content = f"served {self.command} {self.path} xfcc=[{claimed}] body={len(body)} path=[{path}]\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def log_message(self, *_):
        pass


ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
