"""A stand-in for the router: answers like one, on a real UNIX socket, and keeps what was asked.

It is for what the command line does with answers and failures. What a real router does is
tested with real routers.
"""

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from tests.weavepy.samples import (
    sample_addresses,
    sample_attachment,
    sample_history,
    sample_policy_answer,
    sample_policy_status,
    sample_report,
    sample_status,
)
from weavepy.base import pcapng
from weavepy.client import schema

_ANSWERS: dict[str, object] = {
    "/v1/status": sample_status(),
    "/v1/report": sample_report(),
    "/v1/connect": schema.TargetsAnswer(targets=["10.0.0.2", "10.0.0.9"]),
    "/v1/forget": schema.TargetsAnswer(targets=["10.0.0.2"]),
    "/v1/attach": sample_attachment(),
    "/v1/detach": schema.DetachAnswer(released=["10.32.0.9/12", "10.40.1.5/24"]),
    "/v1/expose": schema.ExposeAnswer(addresses=["10.32.0.1/12"]),
    "/v1/hide": schema.ExposeAnswer(addresses=["10.32.0.1/12"]),
    "/v1/attachments": schema.AttachmentList(attachments=[sample_attachment()]),
    "/v1/ipam": sample_status().ipam,
    "/v1/ipam/allocate": schema.AddressAnswer(owner="backup", address="10.32.0.7/12"),
    "/v1/ipam/claim": schema.AddressAnswer(owner="printer", address="10.32.0.8/12"),
    "/v1/ipam/release": schema.ReleaseAnswer(released=["10.32.0.7"]),
    "/v1/ipam/lookup": schema.LookupAnswer(
        addresses=["10.32.0.7/12"], owner="backup", peer="7a:0c:00:00:00:01", nickname="host1"
    ),
    "/v1/ipam/prime": sample_status().ipam,
    "/v1/ipam/addresses": sample_addresses(),
    "/v1/ipam/history": sample_history(),
    "/v1/ipam/check": schema.CheckAnswer(findings=[], addresses=2),
    "/v1/ipam/rmpeer": schema.RmpeerAnswer(
        peer="7a:0c:00:00:00:09", message="gone is taken over: its addresses went to this host"
    ),
    "/v1/cni/add": schema.CniAddAnswer(
        host_interface="vethw1",
        host_mac="02:00:00:00:00:01",
        mac="02:00:00:00:00:02",
        mtu=1400,
        addresses=[schema.CniAddress(address="10.32.0.7/12", gateway="10.32.0.1")],
        routes=[schema.CniRoute(dst="0.0.0.0/0", gw="10.32.0.1")],
    ),
    "/v1/cni/del": schema.CniDelAnswer(released=["10.32.0.7/12"]),
    "/v1/cni/check": schema.CniCheckAnswer(findings=[]),
    "/v1/cni/gc": schema.CniGcAnswer(freed=[], errors=[]),
    "/v1/cni/status": schema.CniStatusAnswer(code=0, message=""),
    "/v1/bench": schema.BenchAnswer(
        peer="7a:0c:00:00:00:02",
        nickname="host2",
        route="direct",
        seconds=2.0,
        tcp_gbps=1.25,
        tcp_reverse_gbps=1.5,
        small_sent_pps=100_000.0,
        small_received_pps=75_000.0,
        rtt_ms_p50=0.25,
        rtt_ms_p99=0.75,
        rtt_lost=0,
    ),
    "/v1/policy": sample_policy_status(),
    "/v1/policy/apply": sample_policy_answer(),
    "/v1/policy/delete": sample_policy_answer(),
    "/v1/policy/explain": schema.ExplainAnswer(allowed=False, lines=["web -> db: is blocked"]),
    "/v1/policy/matrix": schema.MatrixAnswer(
        pods=["default/db", "default/web"], allowed=[[True, False], [True, True]]
    ),
    "/v1/policy/lint": schema.LintAnswer(findings=["default/deny: selects no pod (app=w)"]),
    "/v1/stop": schema.Done(message="stopped"),
    "/v1/reset": schema.Done(message="left the mesh"),
}

CAPTURED = b"".join(
    (
        pcapng.file_head("weavetap", 64),
        pcapng.packet(1, bytes(60), 60, outbound=True),
        pcapng.packet(2, bytes(64), 1500, outbound=False),
        pcapng.statistics(3, 5, 3),
    )
)
DROP = schema.PolicyDrop(
    time=1.5,
    direction="ingress",
    source="default/db (10.32.0.2)",
    destination="default/web (10.32.0.1)",
    service="80/tcp",
    place="reply",
    policies=["default/deny"],
    why=["and no rule allows anything"],
    left_out=3,
)
STREAMS = {"/v1/capture": CAPTURED, "/v1/policy/trace": msgspec.json.encode(DROP) + b"\n"}


class StandIn:
    """`with StandIn(path) as router:`; then `router.requests` is what was asked, in order."""

    def __init__(self, socket_path: Path) -> None:
        self.requests: list[tuple[str, str, dict[str, Any] | None]] = []
        self.failures: dict[str, tuple[int, bytes]] = {}
        """Path to status and content: to answer so instead."""
        self.cut_after_bytes: int | None = None
        """Close the connection after so much of an answer."""
        self.answering = threading.Event()
        """Cleared: the router hangs."""
        self.answering.set()
        self._server = _Server(str(socket_path), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def fail(self, path: str, status: int, code: str, message: str) -> None:
        failure = schema.Failure(code=code, message=message)
        self.failures[path] = (status, msgspec.json.encode(failure))

    def answer(self, path: str) -> tuple[int, bytes]:
        if path in self.failures:
            return self.failures[path]
        if path in STREAMS:
            return 200, STREAMS[path]
        if path not in _ANSWERS:
            return 404, b"404: Not Found"
        return 200, msgspec.json.encode(_ANSWERS[path])

    def __enter__(self) -> "StandIn":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.answering.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, stand_in: StandIn) -> None:
        self.stand_in = stand_in
        super().__init__(path, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        self._answer(json.loads(self.rfile.read(length)))

    def _answer(self, body: dict[str, Any] | None) -> None:
        stand_in = self.server.stand_in
        stand_in.requests.append((self.command, self.path, body))
        stand_in.answering.wait(30)
        status, content = stand_in.answer(self.path)
        head = f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(content)}\r\n\r\n"
        self.wfile.write((head.encode() + content)[: stand_in.cut_after_bytes])

    def log_message(self, format: str, *args: Any) -> None:
        pass
