"""A gRPC application that echoes bytes. Prints its port, then one line for each event.

`grpc_server.py ADDRESS` listens there until it is killed. Without ADDRESS it listens on a free port until its input ends.
The health of the server and of zoo.Zoo is SERVING, that of zoo.Asleep is NOT_SERVING.
"""

import sys
import threading
from concurrent import futures

import grpc

FLOOD = 10_000
MESSAGE = b"x" * 100
LIMITS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

produced = 0
may_read = threading.Event()


def say(*words):
    print(*words, flush=True)


def unary(request, context):
    return request


def split(request, context):
    """Server streaming: each byte as a message of its own."""
    for byte in request:
        yield bytes([byte])


def join(requests, context):
    """Client streaming."""
    return b"+".join(requests)


def chat(requests, context):
    """Bidirectional streaming, with one answer for each message."""
    for request in requests:
        yield request.upper()


def remaining(request, context):
    """Returns the milliseconds until the deadline of the caller."""
    return str(int(context.time_remaining() * 1000)).encode()


def wait(request, context):
    ended = threading.Event()
    if not context.add_callback(ended.set):
        ended.set()  # it has ended already
    say("waiting")
    ended.wait(30)
    say("cancelled" if ended.is_set() else "left waiting")
    return b""


def fail(request, context):
    context.set_trailing_metadata((("x-detail-bin", b"\x00\xff"), ("x-detail", "42")))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no, because: 100% ü")


def partly(request, context):
    """Sends some messages, and then an error in the trailers."""
    yield b"one"
    yield b"two"
    context.abort(grpc.StatusCode.DATA_LOSS, "the rest is lost")


def flood(request, context):
    global produced
    for _ in range(FLOOD):
        produced += 1
        yield MESSAGE


def progress(request, context):
    return str(produced).encode()


def drink(requests, context):
    """Reads nothing until the test allows it."""
    may_read.wait(30)
    return str(sum(len(request) for request in requests)).encode()


def go(request, context):
    may_read.set()
    return b""


UNARY = grpc.unary_unary_rpc_method_handler
SPLIT = grpc.unary_stream_rpc_method_handler
METHODS = {
    "Unary": UNARY(unary),
    "Split": SPLIT(split),
    "Join": grpc.stream_unary_rpc_method_handler(join),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Remaining": UNARY(remaining),
    "Wait": UNARY(wait),
    "Fail": UNARY(fail),
    "Partly": SPLIT(partly),
    "Flood": SPLIT(flood),
    "Progress": UNARY(progress),
    "Drink": grpc.stream_unary_rpc_method_handler(drink),
    "Go": UNARY(go),
}


# grpc.health.v1: SERVING is 1, NOT_SERVING is 2
HEALTH = {"": 1, "zoo.Zoo": 1, "zoo.Asleep": 2}


def check(request, context):
    """The only field of the request is the name of the service; the only field of the answer is its state."""
    state = HEALTH.get(request[2:].decode())
    if state is None:
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return bytes([8, state])


server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=LIMITS)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("zoo.Zoo", METHODS),))
health = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": UNARY(check)})
server.add_generic_rpc_handlers((health,))
port = server.add_insecure_port(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0")
server.start()
say("port", port)
if len(sys.argv) > 1:
    server.wait_for_termination()
sys.stdin.read()  # until the test lets go
server.stop(None)
