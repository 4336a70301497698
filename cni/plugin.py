"""The plugin: one verb per run, put to the router of this host.

It runs under two names. `weavepy-cni` makes the interface; `weavepy-ipam` only gives addresses, for
another plugin that calls it. All decisions are the router's, as what is decided here would be
decided by sixteen processes at a time. Only a DEL is served without it (`journal.py`).
"""

import os
import sys
import time

from cni import call as calls
from cni import journal, link, quick, result, text
from cni.call import Call
from cni.errors import (
    BAD_CONFIG,
    FAILED,
    IO_FAILURE,
    NOT_AS_IT_SHOULD_BE,
    OF_ROUTER,
    TRY_AGAIN,
    UNAVAILABLE,
    CniError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

IPAM_NAME = "weavepy-ipam"
STATE_DIRECTORY = "/var/lib/weavepy"

ADD_TIMEOUT_S = 30.0
"""For an address, should the ring have to ask for one; the rest takes milliseconds."""

MARGIN_S = 10.0
VERB_TIMEOUT_S = 20.0
STATUS_TIMEOUT_S = 2.0


def main(
    name: str,
    environment: "Mapping[str, str]",
    data: "bytes | None" = None,
    answer: "tuple[bytes, float] | None" = None,
) -> int:
    """Return the exit code; the result or the error is on standard output then.

    `data` is standard input, if it was read already, and `answer` what the router said to `quick`,
    and when that asked.
    """
    version = calls.VERSIONS[-1]
    try:
        calls.check_environment(environment)
        if data is None:
            data = calls.read_input()
        if environment["CNI_COMMAND"] == "VERSION" and not data.strip():
            data = b"{}"
        call = Call(environment, calls.decode_config(data))
        if call.version in calls.VERSIONS:
            version = call.version
        calls.check(call)
        outcome = Plugin(call, ipam_only=name == IPAM_NAME, answer=answer).run()
    except CniError as error:
        _log(environment, error)
        failure = {"cniVersion": version, "code": error.code, "msg": error.message}
        if error.details:
            failure["details"] = error.details
        _print(failure)
        return 1
    if outcome is not None:
        _print(outcome)
    return 0


class Plugin:
    def __init__(
        self, call: Call, ipam_only: bool = False, answer: "tuple[bytes, float] | None" = None
    ) -> None:
        """`answer` is the router's to the question that this would put, if it was put already, and
        when that was."""
        self.call = call
        self._answer = answer[0] if answer else None
        self._begun = answer[1] if answer else time.time()
        self._kind = "addresses" if ipam_only else "interface"
        """What the attachment is, for the router."""
        run = call.value("runDir", str, "") or call.environment.get(quick.RUN_VARIABLE)
        state = call.value("stateDir", str, "") or call.environment.get("WEAVEPY_STATE_DIR")
        self.socket = f"{run or quick.RUN_DIRECTORY}/{quick.SOCKET_NAME}"
        self._journal = f"{state or STATE_DIRECTORY}/cni-journal"

    def run(self) -> "dict[str, Any] | None":
        match self.call.verb:
            case "ADD":
                return self._add()
            case "DEL":
                self._del()
            case "CHECK":
                self._check()
            case "GC":
                self._gc()
            case "STATUS":
                self._status()
            case "VERSION":
                return {
                    "cniVersion": self.call.version or calls.VERSIONS[-1],
                    "supportedVersions": list(calls.VERSIONS),
                }
        return None

    # --- verbs -----------------------------------------------------------------------------------

    def _add(self) -> "dict[str, Any]":
        call = self.call
        request = self.attachment() | self.wishes()
        ipam = self.other_ipam()
        if ipam:
            from cni import delegate

            request |= _given(delegate.run(call, ipam))
        try:
            answer = self._ask("/v1/cni/add", request, ADD_TIMEOUT_S + MARGIN_S)
        except CniError:
            if ipam:
                self._undo_other(ipam)
            raise
        if self._kind == "addresses":
            return result.of_addresses(call, answer)
        return result.of_interface(call, answer)

    def _del(self) -> None:
        try:
            self._put("/v1/cni/del", self.attachment(), VERB_TIMEOUT_S)
        except (link.RouterAway, link.AnswerLost, PermissionError) as error:
            self._write_down(str(error))
        except link.Refused as error:
            raise _refusal(error) from error
        ipam = self.other_ipam()
        if ipam:
            from cni import delegate

            delegate.run(self.call, ipam)

    def _check(self) -> None:
        call = self.call
        before = call.section("prevResult")
        if not before and self._kind == "interface":
            raise CniError(BAD_CONFIG, "CHECK needs the prevResult of ADD")
        request = self.attachment() | {"previous": _previous(call, before)}
        answer = self._ask("/v1/cni/check", request, VERB_TIMEOUT_S)
        wrong = [str(finding) for finding in answer["findings"]]
        ipam = self.other_ipam()
        if ipam:
            from cni import delegate

            try:
                delegate.run(call, ipam)
            except CniError as error:
                wrong.append(error.message)
        if wrong:
            raise CniError(NOT_AS_IT_SHOULD_BE, wrong[0], "; ".join(wrong[1:]))

    def _gc(self) -> None:
        call = self.call
        valid = call.value("cni.dev/valid-attachments", list, None)
        if valid is None:
            raise CniError(BAD_CONFIG, "GC needs cni.dev/valid-attachments: nothing was freed")
        request = {
            "network": call.network,
            "kind": self._kind,
            "valid": [_valid(attachment) for attachment in valid],
        }
        answer = self._ask("/v1/cni/gc", request, VERB_TIMEOUT_S + MARGIN_S)
        errors = [str(error) for error in answer["errors"]]
        ipam = self.other_ipam()
        if ipam:
            from cni import delegate

            try:
                delegate.run(call, ipam)
            except CniError as error:
                errors.append(error.message)
        if errors:
            raise CniError(FAILED, f"{len(errors)} were not freed: {errors[0]}", "; ".join(errors))

    def _status(self) -> None:
        request = {"network": self.call.network, "subnet": self._subnet()}
        try:
            answer = self._put("/v1/cni/status", request, STATUS_TIMEOUT_S)
        except (link.RouterAway, link.AnswerLost, PermissionError) as error:
            raise CniError(UNAVAILABLE, "the router does not answer", str(error)) from error
        except link.Refused as error:
            raise _refusal(error) from error
        if answer["code"]:
            raise CniError(int(answer["code"]), str(answer["message"]))
        ipam = self.other_ipam()
        if ipam:
            from cni import delegate

            delegate.run(self.call, ipam)

    # --- requests --------------------------------------------------------------------------------

    def attachment(self) -> "dict[str, Any]":
        call = self.call
        return {
            "network": call.network,
            "container": call.container,
            "interface": call.interface,
            "namespace": call.namespace,
            "kind": self._kind,
        }

    def wishes(self) -> "dict[str, Any]":
        call = self.call
        runtime, arguments = call.section("runtimeConfig"), call.section("args", "cni")
        ips = _texts(runtime, "ips") or _texts(arguments, "ips")
        if not ips and call.arguments.get("IP"):
            ips = [ip for ip in call.arguments["IP"].split(",") if ip]
        mac = runtime.get("mac") or arguments.get("mac") or call.arguments.get("MAC") or ""
        if not isinstance(mac, str):
            raise CniError(BAD_CONFIG, f"the MAC {mac!r} is not a text")
        pod = (call.arguments.get(key, "") for key in ("K8S_POD_NAMESPACE", "K8S_POD_NAME"))
        ipam = call.section("ipam")
        routes = _objects(ipam, "routes")
        return {
            "subnet": self._subnet(),
            "ips": ips,
            "mac": mac.lower(),
            "mtu": call.value("mtu", int, 0),
            "hairpin": call.value("hairpinMode", bool, False),
            "is_default_gateway": call.value("isDefaultGateway", bool, True),
            "masquerade": call.value("ipMasq", bool, True),
            "gateway": str(ipam.get("gateway") or ""),
            "routes": [
                {"dst": str(route.get("dst", "")), "gw": str(route.get("gw", "") or "")}
                for route in routes
            ],
            "pod": "/".join(filter(None, pod)),
            "pod_uid": call.arguments.get("K8S_POD_UID", ""),
            "timeout_s": ADD_TIMEOUT_S,
        }

    def _subnet(self) -> str:
        """Of `ipam.subnet`, or the only one of `ipam.ranges`; "" is the router's default."""
        ipam = self.call.section("ipam")
        subnet = ipam.get("subnet") or ""
        if not subnet and not self.other_ipam():
            ranges = ipam.get("ranges") or []
            try:
                subnets = [one["subnet"] for each in ranges for one in each]
            except (TypeError, KeyError) as error:
                raise CniError(BAD_CONFIG, "ipam.ranges: expected [[{subnet}]]") from error
            if len(subnets) > 1:
                raise CniError(BAD_CONFIG, f"ipam.ranges has {len(subnets)} subnets, not one")
            subnet = subnets[0] if subnets else ""
        if not isinstance(subnet, str):
            raise CniError(BAD_CONFIG, f"ipam.subnet {subnet!r} is not a subnet")
        return subnet

    def other_ipam(self) -> str:
        """The IPAM plugin that is to give the addresses, "" if the router is."""
        if self._kind == "addresses":
            return ""
        kind = self.call.section("ipam").get("type") or ""
        if not isinstance(kind, str):
            raise CniError(BAD_CONFIG, f"ipam.type {kind!r} is not a name")
        return "" if kind == IPAM_NAME else kind

    def _undo_other(self, ipam: str) -> None:
        from cni import delegate

        environment = dict(self.call.environment) | {"CNI_COMMAND": "DEL"}
        try:
            delegate.run(Call(environment, self.call.config), ipam)
        except CniError as error:
            _log(environment, error)

    def _ask(self, path: str, request: "dict[str, Any]", timeout_s: float) -> "dict[str, Any]":
        try:
            return self._put(path, request, timeout_s)
        except link.RouterAway as error:
            raise CniError(TRY_AGAIN, "the router is not running", str(error)) from error
        except link.AnswerLost as error:
            if self.call.verb == "ADD":
                # It may have come half way. Whoever adds again takes this back first.
                self._write_down(str(error), {journal.BEGUN: repr(self._begun)})
            raise CniError(TRY_AGAIN, "the router did not answer", str(error)) from error
        except link.Refused as error:
            raise _refusal(error) from error
        except PermissionError as error:
            raise CniError(IO_FAILURE, f"not allowed to ask the router: {error}") from error

    def _put(self, path: str, request: "dict[str, Any]", timeout_s: float) -> "dict[str, Any]":
        if self._answer is not None:
            return link.decode(self._answer)
        return link.ask(self.socket, path, request, timeout_s)

    def _write_down(self, why: str, more: "Mapping[str, str] | None" = None) -> None:
        call = self.call
        entry = {
            "network": call.network,
            "container": call.container,
            "interface": call.interface,
            "kind": self._kind,
            **(more or {}),
        }
        try:
            journal.write(self._journal, entry)
        except (OSError, journal.JournalFull) as error:
            raise CniError(TRY_AGAIN, f"the router does not answer: {why}", str(error)) from error


def _refusal(error: link.Refused) -> CniError:
    return CniError(OF_ROUTER.get(error.code, FAILED), error.message)


def _texts(section: "dict[str, Any]", key: str) -> "list[str]":
    found = section.get(key) or []
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise CniError(BAD_CONFIG, f"{key} {found!r} is not a list of addresses")
    return found


def _valid(attachment: object) -> "dict[str, str]":
    if not isinstance(attachment, dict):
        raise CniError(BAD_CONFIG, "cni.dev/valid-attachments is not a list of objects")
    container, interface = attachment.get("containerID"), attachment.get("ifname")
    if not isinstance(container, str) or not isinstance(interface, str):
        raise CniError(BAD_CONFIG, "a valid attachment has no containerID or no ifname")
    return {"container": container, "interface": interface}


def _given(answer: "dict[str, Any]") -> "dict[str, Any]":
    """Addresses and routes of another IPAM plugin's result."""
    ips = [ip for ip in answer.get("ips") or [] if isinstance(ip, dict)]
    if not ips:
        raise CniError(FAILED, "the IPAM plugin gave no address")
    return {
        "given": [
            {"address": str(ip.get("address", "")), "gateway": str(ip.get("gateway") or "")}
            for ip in ips
        ],
        "routes": [
            {"dst": str(route.get("dst", "")), "gw": str(route.get("gw") or "")}
            for route in answer.get("routes") or []
            if isinstance(route, dict)
        ],
    }


def _previous(call: Call, before: "dict[str, Any]") -> "dict[str, Any]":
    """Of the result of the whole chain, what concerns this interface."""
    mac, ours = "", -1
    for index, interface in enumerate(_objects(before, "interfaces")):
        if interface.get("name") == call.interface and interface.get("sandbox") == call.namespace:
            mac, ours = str(interface.get("mac", "")), index
    ips = _objects(before, "ips")
    return {
        "mac": mac.lower(),
        "addresses": [
            str(ip.get("address", "")) for ip in ips if ip.get("interface", ours) == ours
        ],
        "routes": [
            {"dst": str(route.get("dst", "")), "gw": str(route.get("gw") or "")}
            for route in _objects(before, "routes")
        ],
    }


def _objects(section: "dict[str, Any]", key: str) -> "list[dict[str, Any]]":
    found = section.get(key) or []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise CniError(BAD_CONFIG, f"{key} is not a list of objects")
    return found


def _print(answer: "dict[str, Any]") -> None:
    data = text.encode(answer).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def _log(environment: "Mapping[str, str]", error: CniError) -> None:
    verb, container = environment.get("CNI_COMMAND", "?"), environment.get("CNI_CONTAINERID", "")
    details = f" ({error.details})" if error.details else ""
    sys.stderr.write(f"weavepy: {verb} {container}: {error.message}{details} [{error.code}]\n")


def start(data: "bytes | None" = None, answer: "tuple[bytes, float] | None" = None) -> None:
    """Run, and leave without tearing the interpreter down: that takes milliseconds, too."""
    try:
        code = main(os.path.basename(sys.argv[0]), os.environ, data, answer)
    except BrokenPipeError:
        code = 1
    except Exception as error:
        _print(
            {
                "cniVersion": calls.VERSIONS[-1],
                "code": FAILED,
                "msg": f"a bug of the plugin: {type(error).__name__}: {error}",
            }
        )
        code = 1
    sys.stderr.flush()
    os._exit(code)
