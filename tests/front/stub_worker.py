"""A worker that speaks frames and does what bodies say: `stub_worker.py '{"id", "socket", "version", ...}'`.

Bodies are JSON objects: {} is answered at once; {"do": "hold"} when a {"do": "release"} comes;
{"do": "die"} ends the process before any answer; {"do": "status", "status": 400} answers that status;
{"do": "big", "bytes": N} answers with N bytes; {"do": "close"} ends the connection; {"do": "never"} is
never answered; {"do": "garbage"} answers what is no frame; {"do": "ask"} answers with a request.
With "die_on": N in its options it dies when its N-th request comes.

With "score": a list of [above, slope, bias] in its options it is a model: for an input x it answers y, by
the last of these that x is above, and the label "high" where y is over 5; above "fails_above" it answers
500. With "deaf": true it answers no input at all until a {"do": "hear"} comes.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

import uvloop

from mldeploy.runtime.frames import HEADER, REQUEST_V2, RESPONSE, Frame, FrameReader


class Worker:
    def __init__(self, options: dict[str, object]) -> None:
        self.options = options
        self.held: list[tuple[Stub, Frame]] = []
        self.seen = 0
        answer = {
            "model_name": options.get("model", "m"),
            "model_version": str(options["version"]),
            "id": "x",
            "worker": options["id"],
            "outputs": [{"name": "y", "shape": [1], "datatype": "FP64", "data": [float(options["version"])]}],
        }
        self.body = json.dumps(answer).encode()
        self.head = HEADER.pack

    def act(self, stub: Stub, frame: Frame) -> None:
        self.seen += 1
        if self.seen == self.options.get("die_on"):
            os._exit(1)
        order = json.loads(frame.body) if frame.body.startswith(b'{"do"') else {}
        if frame.body.startswith(b'{"inputs"') and "score" in self.options:
            if self.options.get("deaf"):
                self.held.append((stub, frame))
            else:
                self.score(stub, frame)
            return
        match order.get("do"):
            case None:
                stub.answer(frame, 200, self.body)
            case "hold":
                self.held.append((stub, frame))
            case "release":
                for other, held in self.held:
                    other.answer(held, 200, self.body)
                self.held.clear()
                stub.answer(frame, 200, self.body)
            case "hear":
                self.options["deaf"] = False
                for other, held in self.held:
                    self.score(other, held)
                stub.answer(frame, 200, self.body)
            case "die":
                os._exit(1)
            case "status":
                stub.answer(frame, order["status"], b'{"error":"as asked"}')
            case "big":
                stub.answer(frame, 200, b'"%b"' % (b"x" * (order["bytes"] - 2)))
            case "close":
                stub.transport.abort()
            case "garbage":
                stub.transport.write(b"\xff" * 64)
            case "ask":
                stub.transport.write(HEADER.pack(2, REQUEST_V2, 0, 200, frame.id, 1, 0) + b"{}")
            case "echo":
                stub.answer(frame, 200, json.dumps({"budget": frame.budget, "header": frame.header}).encode())

    def score(self, stub: Stub, frame: Frame) -> None:
        values = [float(value) for value in json.loads(frame.body)["inputs"][0]["data"]]
        if max(values) > self.options.get("fails_above", 1e300):
            stub.answer(frame, 500, b'{"error":"too much"}')
            return
        scores = []
        for x in values:
            _, slope, bias = [rule for rule in self.options["score"] if x > rule[0]][-1]
            scores.append(slope * x + bias)
        labels = ["high" if y > 5 else "low" for y in scores]
        outputs = [
            {"name": "y", "shape": [len(values)], "datatype": "FP64", "data": scores},
            {"name": "label", "shape": [len(values)], "datatype": "BYTES", "data": labels},
        ]
        answer = {"model_name": "m", "model_version": str(self.options["version"]), "outputs": outputs}
        stub.answer(frame, 200, json.dumps(answer).encode())


class Stub(asyncio.Protocol):
    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.reader = FrameReader()
        self.out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def answer(self, frame: Frame, status: int, body: bytes) -> None:
        if not self.transport.is_closing():
            if not self.out:
                asyncio.get_running_loop().call_soon(self.flush)
            self.out.append(HEADER.pack(len(body), RESPONSE, 0, status, frame.id, 1, 0) + body)

    def flush(self) -> None:
        self.transport.write(b"".join(self.out))
        self.out.clear()

    def data_received(self, data: bytes) -> None:
        for frame in self.reader.feed(data):
            self.worker.act(self, frame)


async def main() -> None:
    options = json.loads(sys.argv[1])
    worker = Worker(options)
    server = await asyncio.get_running_loop().create_unix_server(lambda: Stub(worker), options["socket"])
    print("listening", flush=True)
    async with server:
        await server.serve_forever()


uvloop.run(main())
