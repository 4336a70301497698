"""The control API with types: each method is one row of the table in `schema`."""

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from weavepy.base.settings import Directories, directories
from weavepy.client import schema
from weavepy.client.http import BadAnswer, Client

Answer = TypeVar("Answer", bound=schema.Struct)

WAITING_MARGIN_S = 5.0
"""A request that may wait names its own limit; we wait a little longer for the refusal."""

STOP_TIMEOUT_S = 30.0
"""Goodbyes on all links, the datapath's end, the last write to disk."""

BENCH_TIMEOUT_S = 60.0
"""Two containers to be attached, one of them elsewhere, and the short measurements."""

POLICY_TIMEOUT_S = 30.0
"""Compiling, a write to disk, and one transaction of the packet filter."""

LINT_TIMEOUT_S = 90.0
"""A router gives up before."""

ALLOCATION_TIMEOUT_S = 30.0
"""What a router allows an allocation whose request names no limit."""


class Api:
    """Talks to the router of one run directory; by default that of the environment."""

    def __init__(self, where: Directories | None = None, timeout_s: float = 10.0) -> None:
        self.directories = where or directories()
        self.client = Client(self.directories.api_socket, timeout_s)

    def status(self) -> schema.Status:
        return self._get("/v1/status", schema.Status)

    def report(self) -> schema.Report:
        return self._get("/v1/report", schema.Report)

    def connect(self, request: schema.ConnectRequest) -> schema.TargetsAnswer:
        return self._post("/v1/connect", request, schema.TargetsAnswer)

    def forget(self, request: schema.ForgetRequest) -> schema.TargetsAnswer:
        return self._post("/v1/forget", request, schema.TargetsAnswer)

    def attach(self, request: schema.AttachRequest) -> schema.Attachment:
        return self._post("/v1/attach", request, schema.Attachment, request.timeout_s)

    def detach(self, request: schema.DetachRequest) -> schema.DetachAnswer:
        return self._post("/v1/detach", request, schema.DetachAnswer)

    def expose(self, request: schema.ExposeRequest) -> schema.ExposeAnswer:
        return self._post("/v1/expose", request, schema.ExposeAnswer, ALLOCATION_TIMEOUT_S)

    def hide(self, request: schema.HideRequest) -> schema.ExposeAnswer:
        return self._post("/v1/hide", request, schema.ExposeAnswer)

    def attachments(self) -> schema.AttachmentList:
        return self._get("/v1/attachments", schema.AttachmentList)

    def ipam(self) -> schema.IpamStatus:
        return self._get("/v1/ipam", schema.IpamStatus)

    def allocate(self, request: schema.AllocateRequest) -> schema.AddressAnswer:
        return self._post("/v1/ipam/allocate", request, schema.AddressAnswer, request.timeout_s)

    def claim(self, request: schema.ClaimRequest) -> schema.AddressAnswer:
        return self._post("/v1/ipam/claim", request, schema.AddressAnswer, request.timeout_s)

    def release(self, request: schema.ReleaseRequest) -> schema.ReleaseAnswer:
        return self._post("/v1/ipam/release", request, schema.ReleaseAnswer)

    def lookup(self, request: schema.LookupRequest) -> schema.LookupAnswer:
        return self._post("/v1/ipam/lookup", request, schema.LookupAnswer)

    def prime(self, request: schema.PrimeRequest) -> schema.IpamStatus:
        return self._post("/v1/ipam/prime", request, schema.IpamStatus, request.timeout_s)

    def addresses(self) -> schema.AddressList:
        return self._get("/v1/ipam/addresses", schema.AddressList)

    def history(self) -> schema.HistoryAnswer:
        return self._get("/v1/ipam/history", schema.HistoryAnswer)

    def check(self) -> schema.CheckAnswer:
        return self._get("/v1/ipam/check", schema.CheckAnswer)

    def rmpeer(self, request: schema.RmpeerRequest) -> schema.RmpeerAnswer:
        return self._post("/v1/ipam/rmpeer", request, schema.RmpeerAnswer, request.timeout_s)

    def cni_add(self, request: schema.CniAddRequest) -> schema.CniAddAnswer:
        return self._post("/v1/cni/add", request, schema.CniAddAnswer, request.timeout_s)

    def cni_del(self, request: schema.CniDelRequest) -> schema.CniDelAnswer:
        return self._post("/v1/cni/del", request, schema.CniDelAnswer)

    def cni_check(self, request: schema.CniCheckRequest) -> schema.CniCheckAnswer:
        return self._post("/v1/cni/check", request, schema.CniCheckAnswer)

    def cni_gc(self, request: schema.CniGcRequest) -> schema.CniGcAnswer:
        return self._post("/v1/cni/gc", request, schema.CniGcAnswer)

    def cni_status(self, request: schema.CniStatusRequest) -> schema.CniStatusAnswer:
        return self._post("/v1/cni/status", request, schema.CniStatusAnswer)

    def capture(self, request: schema.CaptureRequest) -> Iterator[bytes]:
        """A pcapng file in parts, as they come; closing the iterator ends the capture."""
        return self.client.stream("POST", "/v1/capture", msgspec.to_builtins(request))

    def bench(self, request: schema.BenchRequest) -> schema.BenchAnswer:
        waits_s = BENCH_TIMEOUT_S + 3 * request.seconds
        return self._post("/v1/bench", request, schema.BenchAnswer, waits_s)

    def policy(self) -> schema.PolicyStatus:
        return self._get("/v1/policy", schema.PolicyStatus)

    def policy_apply(self, request: schema.PolicyObjects) -> schema.PolicyAnswer:
        return self._post("/v1/policy/apply", request, schema.PolicyAnswer, POLICY_TIMEOUT_S)

    def policy_delete(self, request: schema.PolicyObjects) -> schema.PolicyAnswer:
        return self._post("/v1/policy/delete", request, schema.PolicyAnswer, POLICY_TIMEOUT_S)

    def policy_explain(self, request: schema.ExplainRequest) -> schema.ExplainAnswer:
        return self._post("/v1/policy/explain", request, schema.ExplainAnswer)

    def policy_matrix(self, request: schema.MatrixRequest) -> schema.MatrixAnswer:
        return self._post("/v1/policy/matrix", request, schema.MatrixAnswer, POLICY_TIMEOUT_S)

    def policy_lint(self, request: schema.LintRequest) -> schema.LintAnswer:
        return self._post("/v1/policy/lint", request, schema.LintAnswer, LINT_TIMEOUT_S)

    def policy_trace(self, request: schema.TraceRequest) -> Iterator[schema.PolicyDrop]:
        """As they happen; closing the iterator ends it."""
        rest = b""
        for part in self.client.stream("POST", "/v1/policy/trace", msgspec.to_builtins(request)):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                yield msgspec.json.decode(line, type=schema.PolicyDrop)

    def stop(self, request: schema.StopRequest) -> schema.Done:
        return self._post("/v1/stop", request, schema.Done, STOP_TIMEOUT_S)

    def reset(self, request: schema.ResetRequest) -> schema.Done:
        return self._post("/v1/reset", request, schema.Done, request.timeout_s + STOP_TIMEOUT_S)

    def _get(self, path: str, kind: type[Answer]) -> Answer:
        return _typed(self.client.request("GET", path), kind)

    def _post(
        self, path: str, request: schema.Struct, kind: type[Answer], waits_s: float | None = None
    ) -> Answer:
        allowed_s = None if waits_s is None else waits_s + WAITING_MARGIN_S
        answer = self.client.request("POST", path, msgspec.to_builtins(request), allowed_s)
        return _typed(answer, kind)


def _typed(answer: dict[str, object], kind: type[Answer]) -> Answer:
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise BadAnswer(
            f"the router answered in a way that this command does not understand ({error}): they"
            " are of two versions, so restart the router"
        ) from error
