"""A gRPC client: makes every kind of call to the service `zoo`, and prints one line for each.

`grpc_client.py ADDRESS briefly` makes only the four basic kinds of calls.
"""

import hashlib
import os
import queue
import sys

import grpc

LIMITS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
]
PATIENCE = 30

channel = grpc.insecure_channel(sys.argv[1], options=LIMITS)


def say(*words):
    print(*words, flush=True)


def unary(method, request=b"", timeout=PATIENCE):
    return channel.unary_unary("/zoo.Zoo/" + method)(request, timeout=timeout)


def split(method, request=b""):
    return channel.unary_stream("/zoo.Zoo/" + method)(request, timeout=PATIENCE)


def join(method, requests):
    return channel.stream_unary("/zoo.Zoo/" + method)(requests, timeout=PATIENCE)


def chat(method, requests):
    return channel.stream_stream("/zoo.Zoo/" + method)(requests, timeout=PATIENCE)


def code(call):
    try:
        call()
        return "OK"
    except grpc.RpcError as error:
        return error.code().name


def four_kinds():
    say("unary", unary("Unary", b"hello").decode())
    say("server streaming", b"|".join(split("Split", b"abc")).decode())
    say("client streaming", join("Join", iter([b"a", b"b", b"c"])).decode())
    say("both", b"|".join(chat("Chat", iter([b"a", b"b"]))).decode())


def turn_by_turn():
    """Each message is sent only after the answer to the one before it came."""
    heard = []
    outbox = queue.Queue()
    answers = chat("Chat", iter(outbox.get, None))
    for number in range(5):
        outbox.put(b"q%d" % number)
        heard.append(next(answers))
    outbox.put(None)
    say("turn by turn", b" ".join(heard).decode(), code(lambda: next(answers, None)))


def deadlines():
    left = int(unary("Remaining", timeout=5))  # grpcio itself rounds it up, by up to 2 %
    say("remaining", "as given" if 0 < left <= 5_100 else left)
    say("deadline", code(lambda: unary("Wait", timeout=5)))
    input()  # the test saw the server hear of it


def cancellation():
    call = channel.unary_unary("/zoo.Zoo/Wait").future(b"", timeout=PATIENCE)
    say("cancelling", input())  # the test saw the server waiting
    call.cancel()
    say("cancelled", call.cancelled())


def large():
    message = bytes(range(256)) * (20 * 1024 * 1024 // 256)
    echoed = unary("Unary", message)
    same = hashlib.sha256(message).digest() == hashlib.sha256(echoed).digest()
    say("large", len(echoed), same)


def errors():
    try:
        unary("Fail")
    except grpc.RpcError as error:
        trailers = {key: value for key, value in error.trailing_metadata() or () if key.startswith("x-detail")}
        say("trailers only", error.code().name, error.details(), sorted(trailers.items()))
    answers, heard = split("Partly"), []
    try:
        for answer in answers:
            heard.append(answer.decode())
    except grpc.RpcError as error:
        say("partly", " ".join(heard), error.code().name, error.details())
    say("unknown method", code(lambda: unary("Nothing")))


def stands_still():
    """Asks until the server has produced nothing new for twenty answers in a row."""
    last, same = -1, 0
    while same < 20:
        now = int(unary("Progress"))
        same = same + 1 if now == last and now > 0 else 0
        last = now
    return last


def floods():
    answers = split("Flood")
    first = next(answers)
    produced = stands_still()
    rest = list(answers)
    sizes = {len(message) for message in [first, *rest]}
    say("flood", 1 + len(rest), sizes)
    print("the server stood still after", produced, "messages", file=sys.stderr)
    call = channel.stream_unary("/zoo.Zoo/Drink").future((b"x" * 100 for _ in range(10_000)), timeout=PATIENCE)
    unary("Progress")  # the connection is not blocked by the stream that the client does not read
    unary("Go")
    say("drink", call.result().decode())


def end():
    """Ends without the interpreter's own end, during which threads of grpcio can still run and crash."""
    channel.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


four_kinds()
turn_by_turn()
if sys.argv[2:] == ["briefly"]:
    end()
deadlines()
cancellation()
large()
errors()
floods()
end()
