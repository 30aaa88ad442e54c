"""An application that exposes metrics by Python's prometheus_client. Prints its port, and goes on until it is killed."""
import threading

from prometheus_client import Counter, Histogram, Info, Summary, start_http_server

orders = Counter("shop_orders", 'Orders "placed"\nby kind', ["kind"])
orders.labels('a"b\\c\nd').inc(3, exemplar={"trace_id": "abc"})
Histogram("shop_duration_seconds", "Time", buckets=[0.1, 1]).observe(0.5, exemplar={"trace_id": "def"})
Summary("shop_bytes", "Sizes").observe(10)
Info("shop_build", "The build").info({"version": "1.2"})
server, thread = start_http_server(0, addr="127.0.0.1")
print(server.server_port, flush=True)
threading.Event().wait()
