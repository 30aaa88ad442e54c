"""An application that calls another one. It knows nothing of sidecars, except that outgoing HTTP has a proxy."""
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": "http://127.0.0.1:15001"}))


class Web(BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            with opener.open("http://orders/", timeout=5) as answer:
                status, text = 200, b"orders says: " + answer.read()
        except OSError as why:
            status, text = 502, f"orders does not answer: {why}\n".encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


ThreadingHTTPServer(("0.0.0.0", 8080), Web).serve_forever()
