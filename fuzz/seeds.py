# SPDX-License-Identifier: BSD-2-Clause
"""Write the corpus that the fuzzer begins with, made from the transcripts: `python -m fuzz.seeds`.

Inputs that the fuzzer has found and that were fixed may be added by hand as `found-…`; they are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from fuzz import translation
from tests.harness.frames import BINARY, CONTINUATION, PING, PONG, TEXT, close_frame, frame

CORPUS = Path(__file__).parent / "corpus"
TRANSCRIPTS = Path(__file__).parents[1] / "fixtures" / "transcripts"
CARRIERS = ("twilio", "telnyx", "plivo", "exotel")
KEY = b"\x37\xfa\x21\x3d"
END = b"\r\n\r\n"
WEBSOCKET = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\n"
)


def messages(carrier: str) -> Iterator[str]:
    """Yield the messages of the carrier and the agent in the transcripts: one of each kind and file."""
    seen = set()
    for file in sorted(TRANSCRIPTS.glob(f"{carrier}_*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            kind = (file, entry["dir"], entry.get("msg", {}).get("event"))
            if "msg" in entry and kind not in seen:
                seen.add(kind)
                yield json.dumps(entry["msg"], separators=(",", ":"))


def requests() -> dict[str, bytes]:
    """Return requests for media sockets, valid and odd, by name."""
    host = "Host: eu-central.api.example.com\r\n"
    targets = {
        "agent": "/ws/twilio/support.acme",
        "query": "/ws/telnyx?serviceHost=support.acme&body=eyJhIjoxfQ==",
        "token": "/ws/plivo/support.acme/eyJ0b2tlbiI6MX0.c2ln",
        "generic": "/ws/generic/support.acme",
        "absolute": "http://api.example.com/ws/exotel",
        "no-url": "http://[::1/ws/twilio",
        "nothing": "/",
    }
    made = {
        name: f"GET {target} HTTP/1.1\r\n{host}{WEBSOCKET}\r\n".encode() for name, target in targets.items()
    }
    good = f"GET {targets['agent']} HTTP/1.1\r\n{host}{WEBSOCKET}"
    made["bearer"] = f"{good}Authorization: Bearer abc.def\r\n\r\n".encode()
    made["protocol"] = (
        f"{good}Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Extensions: x; y=1\r\n\r\n".encode()
    )
    made["early"] = f"{good}\r\n".encode() + frame(TEXT, b"{}", key=KEY)
    made["post"] = made["agent"].replace(b"GET", b"POST")
    made["version"] = made["agent"].replace(b": 13", b": 8")
    made["no-key"] = made["agent"].replace(b"Sec-WebSocket-Key", b"X-Key")
    made["no-text"] = made["agent"].replace(b"eu-central", b"\xff\xfe")
    return made


def answers() -> dict[str, bytes]:
    """Return an agent's answers to the key of `requests`, valid and odd, by name."""
    headers = (
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
    )
    good = f"HTTP/1.1 101 Switching Protocols\r\n{headers}\r\n".encode()
    return {
        "answer": good,
        "answer-other-key": good.replace(b"s3pP", b"bm8="),
        "answer-twice": good.replace(b"Upgrade: ", b"Upgrade: x\r\nUpgrade: "),
        "answer-length": good.replace(END, b"\r\nContent-Length: 2" + END),
        "answer-protocol": good.replace(END, b"\r\nSec-WebSocket-Protocol: a" + END),
        "answer-200": b"HTTP/1.1 200 OK" + END,
    }


def streams() -> dict[str, bytes]:
    """Return streams of frames after the four bytes that choose settings and cuts (fuzz/frame_scanner.py)."""
    media = [message.encode() for message in list(messages("twilio"))[:6]]
    made = {}
    for masked in (False, True):
        key = KEY if masked else None
        kinds = {
            "talk": b"".join(frame(TEXT, message, key=key) for message in media),
            "controls": frame(PING, b"there?", key=key)
            + frame(PONG, key=key)
            + close_frame(1000, "bye", key=key),
            "fragments": frame(TEXT, b"in ", key=key, fin=False)
            + frame(PING, key=key)
            + frame(CONTINUATION, b"two ", key=key, fin=False)
            + frame(CONTINUATION, b"parts", key=key),
            "lengths": frame(BINARY, bytes(125), key=key)
            + frame(BINARY, bytes(126), key=key)
            + frame(BINARY, b"wide", key=key, wide=8)
            + frame(BINARY, b"wide", key=key, wide=2),
            "half": frame(TEXT, bytes(400), key=key)[:300],
            "reserved": frame(TEXT, b"x", key=key, reserved=0x40) + frame(0x3, b"x", key=key),
            "too-long": frame(BINARY, b"x", key=key, wide=8)[:2] + b"\xff" * 12,
        }
        for look in range(4):
            head = bytes((masked | look << 1 | 3 << 3, 0, 0, look))
            for name, stream in kinds.items():
                made[f"{name}-{'masked' if masked else 'plain'}-{look}"] = head + stream
    return made


def corpus() -> dict[str, dict[str, bytes]]:
    """Return every seed, by target and name."""
    made = {
        carrier: {f"{number:02}": message.encode() for number, message in enumerate(messages(carrier))}
        for carrier in CARRIERS
    }
    return {
        "upgrade": requests(),
        "handshake": requests() | answers(),
        "frames": streams(),
        "translation": translation.seeds(),
        **made,
    }


def main() -> None:
    for target, seeds in corpus().items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, seed in seeds.items():
            (folder / name).write_bytes(seed)


if __name__ == "__main__":
    main()
