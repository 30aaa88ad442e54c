"""An external authorizer over HTTP, as Envoy's `http_service` asks it: status 200 allows.

It prints its port, and then each question as a line of JSON. `Bearer good` is allowed; what asks for /slow is answered late.
"""

import http.server
import json
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def judge(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        print(json.dumps({"method": self.command, "path": self.path, "headers": headers}), flush=True)
        if self.path.endswith("/slow"):
            time.sleep(30)
        allowed = headers.get("authorization") == "Bearer good"
        content = b"{}" if allowed else b'{"error": "who are you?"}'
        self.send_response(200 if allowed else 401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        if not allowed:
            self.send_header("www-authenticate", 'Bearer realm="shop"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = judge

    def log_message(self, *_words):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(json.dumps({"port": server.server_address[1]}), flush=True)
sys.exit(server.serve_forever())
