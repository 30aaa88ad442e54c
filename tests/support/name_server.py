"""A name server over UDP and TCP: `name_server.py HOST:PORT … -- NAME=RECORD,RECORD …`. A record is an
address, or `srv/PRIORITY/WEIGHT/PORT/TARGET.`. Prints one line `ready`, then a line such as `udp A name.` for each question.

Other names do not exist. An answer above 512 bytes, or above the size in the client's EDNS, is cut.
"""

import asyncio
import ipaddress
import struct
import sys

A, SOA, AAAA, SRV, OPT = 1, 6, 28, 33, 41
KINDS = {A: "A", AAAA: "AAAA", SRV: "SRV"}
TTL = 60


def name_at(message, at):
    labels = []
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode("latin-1"))
        at += 1 + length
    return ".".join(labels) + ".", at + 1


def room(message, end):
    """Returns the size that an answer may have. The only additional record of a question is OPT here."""
    if message[11] and struct.unpack_from("!H", message, end + 5)[0] == OPT:
        return max(512, struct.unpack_from("!H", message, end + 7)[0])
    return 512


def answer(zone, message, over):
    name, end = name_at(message, 12)
    kind = struct.unpack_from("!H", message, end)[0]
    print(over, KINDS.get(kind, kind), name, flush=True)
    known = zone.get(name.lower())
    records = [data for its, data in known or [] if its == kind]
    code = 0 if known is not None else 3
    body = b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, TTL, len(data)) + data for data in records)
    authorities = 0
    if not records:
        soa = b"\0\0" + struct.pack("!IIIII", 1, TTL, TTL, TTL, TTL)
        body, authorities = struct.pack("!HHHIH", 0xC00C, SOA, 1, TTL, len(soa)) + soa, 1
    head = message[:2], 0x8180 | code, 1, len(records), authorities
    whole = written(head) + message[12 : end + 4] + body
    if over == "udp" and len(whole) > room(message, end + 4):
        return written((message[:2], 0x8380 | code, 1, 0, 0)) + message[12 : end + 4]
    return whole


def record(text):
    if not text.startswith("srv/"):
        ip = ipaddress.ip_address(text)
        return (A if ip.version == 4 else AAAA), ip.packed
    priority, weight, port, target = text.split("/")[1:]
    labels = b"".join(bytes([len(label)]) + label.encode() for label in target.split("."))
    return SRV, struct.pack("!HHH", int(priority), int(weight), int(port)) + labels


def written(head):
    return head[0] + struct.pack("!HHHHH", *head[1:], 0)


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, zone):
        self.zone = zone

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, message, peer):
        self.transport.sendto(answer(self.zone, message, "udp"), peer)


def connections(zone):
    async def serve(reader, writer):
        try:
            while True:
                length = struct.unpack("!H", await reader.readexactly(2))[0]
                reply = answer(zone, await reader.readexactly(length), "tcp")
                writer.write(struct.pack("!H", len(reply)) + reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return serve


async def main(words):
    places, names = words[: words.index("--")], words[words.index("--") + 1 :]
    zone = {}
    for name, records in (word.split("=") for word in names):
        zone[name.lower()] = [record(text) for text in records.split(",") if text]
    loop = asyncio.get_running_loop()
    for place in places:
        host, port = place.rsplit(":", 1)
        at = host.strip("[]"), int(port)
        await loop.create_datagram_endpoint(lambda: Datagrams(zone), local_addr=at)
        await asyncio.start_server(connections(zone), *at)
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(sys.argv[1:]))
