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
    call = None
    try:
        calls.check_environment(environment)
        call = calls.understand(environment, calls.read_input() if data is None else data)
        calls.check(call)
        outcome = Plugin(call, name, answer).run()
    except CniError as error:
        sys.stderr.write(failure_line(environment, error))
        _write(failure(call, error))
        return 1
    _write(printed(outcome))
    return 0


def printed(outcome: "dict[str, Any] | None") -> bytes:
    return text.encode(outcome).encode() + b"\n" if outcome is not None else b""


def failure(call: "Call | None", error: CniError) -> bytes:
    """What is printed then, in the version that was asked for if that could be read."""
    version = call.version if call and call.version in calls.VERSIONS else calls.VERSIONS[-1]
    told = {"cniVersion": version, "code": error.code, "msg": error.message}
    return printed(told | ({"details": error.details} if error.details else {}))


def failure_line(environment: "Mapping[str, str]", error: CniError) -> str:
    """The same for people."""
    verb, container = environment.get("CNI_COMMAND", "?"), environment.get("CNI_CONTAINERID", "")
    details = f" ({error.details})" if error.details else ""
    line = f"weavepy: {verb} {container}: {error.message}{details} [{error.code}]"
    return line.replace("\n", " ") + "\n"


class Plugin:
    def __init__(self, call: Call, name: str, answer: "tuple[bytes, float] | None" = None) -> None:
        """`name` is what it runs under. `answer` is the router's to the question that this would
        put, if it was put already, and when that was."""
        self.call = call
        self._answer = answer[0] if answer else None
        self._begun = answer[1] if answer else time.time()
        self._kind = "addresses" if name == IPAM_NAME else "interface"
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
            case "STATUS":
                self._status()
            case "VERSION":
                return self.versions()
            case _:
                return self.outcome(self._ask(self.question()), self._failure_of_other())
        return None

    # --- verbs -----------------------------------------------------------------------------------

    def _add(self) -> "dict[str, Any] | None":
        request = self.question()
        ipam = self.other_ipam()
        if ipam:
            from cni import delegate

            request |= _given(delegate.run(self.call, ipam))
        try:
            answer = self._ask(request)
        except CniError:
            if ipam:
                self._undo_other(ipam)
            raise
        return self.outcome(answer)

    def _del(self) -> None:
        try:
            self._put(self.question())
        except (link.RouterAway, link.AnswerLost, PermissionError) as error:
            self._write_down(str(error))
        except link.Refused as error:
            raise refusal(error.code, error.message) from error
        self._run_other()

    def _status(self) -> None:
        try:
            answer = self._put(self.question())
        except (link.RouterAway, link.AnswerLost, PermissionError) as error:
            raise CniError(UNAVAILABLE, "the router does not answer", str(error)) from error
        except link.Refused as error:
            raise refusal(error.code, error.message) from error
        self.outcome(answer)
        self._run_other()

    def versions(self) -> "dict[str, Any]":
        return {
            "cniVersion": self.call.version or calls.VERSIONS[-1],
            "supportedVersions": list(calls.VERSIONS),
        }

    def outcome(self, answer: "dict[str, Any]", other: str = "") -> "dict[str, Any] | None":
        """What the router's answer to `question` comes to; `other` is how another IPAM plugin
        failed."""
        call = self.call
        more = [other] if other else []
        match call.verb:
            case "ADD" if self._kind == "addresses":
                return result.of_addresses(call, answer)
            case "ADD":
                return result.of_interface(call, answer)
            case "CHECK":
                wrong = [str(finding) for finding in answer["findings"]] + more
                if wrong:
                    raise CniError(NOT_AS_IT_SHOULD_BE, wrong[0], "; ".join(wrong[1:]))
            case "GC":
                errors = [str(error) for error in answer["errors"]] + more
                if errors:
                    message = f"{len(errors)} were not freed: {errors[0]}"
                    raise CniError(FAILED, message, "; ".join(errors))
            case "STATUS":
                if answer["code"]:
                    raise CniError(int(answer["code"]), str(answer["message"]))
        return None

    # --- another IPAM plugin ---------------------------------------------------------------------

    def other_ipam(self) -> str:
        """The IPAM plugin that is to give the addresses, "" if the router is."""
        if self._kind == "addresses":
            return ""
        kind = self.call.section("ipam").get("type") or ""
        if not isinstance(kind, str):
            raise CniError(BAD_CONFIG, f"ipam.type {kind!r} is not a name")
        return "" if kind == IPAM_NAME else kind

    def _run_other(self) -> None:
        ipam = self.other_ipam()
        if ipam:
            from cni import delegate

            delegate.run(self.call, ipam)

    def _failure_of_other(self) -> str:
        try:
            self._run_other()
        except CniError as error:
            return error.message
        return ""

    def _undo_other(self, ipam: str) -> None:
        from cni import delegate

        environment = dict(self.call.environment) | {"CNI_COMMAND": "DEL"}
        try:
            delegate.run(Call(environment, self.call.config), ipam)
        except CniError as error:
            sys.stderr.write(failure_line(environment, error))

    # --- requests --------------------------------------------------------------------------------

    def question(self) -> "dict[str, Any]":
        """What the router is asked."""
        call = self.call
        match call.verb:
            case "ADD":
                return self._attachment() | self._wishes()
            case "DEL":
                return self._attachment()
            case "CHECK":
                before = call.section("prevResult")
                if not before and self._kind == "interface":
                    raise CniError(BAD_CONFIG, "CHECK needs the prevResult of ADD")
                return self._attachment() | {"previous": _previous(call, before)}
            case "GC":
                valid = call.value("cni.dev/valid-attachments", list, None)
                if valid is None:
                    raise CniError(
                        BAD_CONFIG, "GC needs cni.dev/valid-attachments: nothing was freed"
                    )
                named = [_valid(attachment) for attachment in valid]
                return {"network": call.network, "kind": self._kind, "valid": named}
            case "STATUS":
                return {"network": call.network, "subnet": self._subnet()}
        raise AssertionError(call.verb)

    def _attachment(self) -> "dict[str, Any]":
        call = self.call
        return {
            "network": call.network,
            "container": call.container,
            "interface": call.interface,
            "namespace": call.namespace,
            "kind": self._kind,
        }

    def _wishes(self) -> "dict[str, Any]":
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

    def _ask(self, request: "dict[str, Any]") -> "dict[str, Any]":
        try:
            return self._put(request)
        except link.RouterAway as error:
            raise CniError(TRY_AGAIN, "the router is not running", str(error)) from error
        except link.AnswerLost as error:
            if self.call.verb == "ADD":
                # It may have come half way. Whoever adds again takes this back first.
                self._write_down(str(error), {journal.BEGUN: repr(self._begun)})
            raise CniError(TRY_AGAIN, "the router did not answer", str(error)) from error
        except link.Refused as error:
            raise refusal(error.code, error.message) from error
        except PermissionError as error:
            raise CniError(IO_FAILURE, f"not allowed to ask the router: {error}") from error

    def _put(self, request: "dict[str, Any]") -> "dict[str, Any]":
        if self._answer is not None:
            return link.decode(self._answer)
        verb = self.call.verb
        return link.ask(self.socket, f"/v1/cni/{verb.lower()}", request, quick.TIMEOUTS_S[verb])

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


def refusal(code: str, message: str) -> CniError:
    """By the code of the router's `Failure`."""
    return CniError(OF_ROUTER.get(code, FAILED), message)


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


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def start(
    name: str, data: "bytes | None" = None, answer: "tuple[bytes, float] | None" = None
) -> None:
    """Run, and leave without tearing the interpreter down: that takes milliseconds, too."""
    try:
        code = main(name, os.environ, data, answer)
    except BrokenPipeError:
        code = 1
    except Exception as error:
        bug = f"a bug of the plugin: {type(error).__name__}: {error}"
        _write(failure(None, CniError(FAILED, bug)))
        code = 1
    sys.stderr.flush()
    os._exit(code)
