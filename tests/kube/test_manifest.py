"""The manifest on its own: its shape, its rights, and that they are what the code uses."""

import json
import os
import subprocess
from typing import Any

import pytest
import yaml

from kube.core.objects import NODES
from kube.core.pods import NAMESPACES, PODS, POLICIES
from kube.shell.api import Api, ApiNotFound
from kube.shell.server import ApiServer
from tests.kube.cluster import PROGRAMS
from tests.kube.manifest import MANIFEST, ROOT, daemon_set, objects, of_kind
from tests.kube.stand_in import StandIn, rules_of

SCHEMA = json.loads((ROOT / "tests/vectors/kube/schema-1.20.json").read_text())
"""The server's own, of the kinds that we use; made from its OpenAPI definition."""

PRIMITIVES = {"string": str, "boolean": bool, "integer": int, "number": (int, float)}


def faults(value: Any, schema: dict[str, Any], path: str) -> list[str]:
    """Return where a value is not as the schema says: unknown, missing or of another type."""
    if "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"]]
    kind = schema.get("type", "object" if "properties" in schema else "")
    if kind == "array":
        if not isinstance(value, list):
            return [f"{path} is no list"]
        return [
            fault
            for at, each in enumerate(value)
            for fault in faults(each, schema["items"], f"{path}[{at}]")
        ]
    if kind in PRIMITIVES:
        is_int_or_string = schema.get("format") == "int-or-string" and isinstance(value, int)
        fits = isinstance(value, PRIMITIVES[kind]) and isinstance(value, bool) == (
            kind == "boolean"
        )
        return [] if fits or is_int_or_string else [f"{path} is no {kind}"]
    if not isinstance(value, dict):
        return [f"{path} is no object"]
    found = [
        f"{path}.{name} is missing" for name in schema.get("required", []) if name not in value
    ]
    for name, each in value.items():
        inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
        if inner is None:
            found += [f"{path}.{name} is unknown"] if "properties" in schema else []
        else:
            found += faults(each, inner, f"{path}.{name}")
    return found


def check(found: dict[str, Any]) -> list[str]:
    name = SCHEMA["kinds"][f"{found['apiVersion']} {found['kind']}"]
    return faults(found, {"$ref": name}, found["kind"])


def test_every_object_is_as_the_servers_schema_says() -> None:
    assert [fault for found in objects() for fault in check(found)] == []


def test_the_check_of_the_schema_can_fail() -> None:
    router = daemon_set()
    pod = router["spec"]["template"]["spec"]
    pod["hostNetwork"] = "yes"
    pod["container"] = []
    del router["spec"]["selector"]
    assert sorted(check(router)) == [
        "DaemonSet.spec.selector is missing",
        "DaemonSet.spec.template.spec.container is unknown",
        "DaemonSet.spec.template.spec.hostNetwork is no boolean",
    ]


def test_nothing_is_privileged_and_each_right_is_named() -> None:
    rights = {}
    for found in of_kind("DaemonSet"):
        pod = found["spec"]["template"]["spec"]
        assert not pod.get("hostPID")
        for container in (*pod.get("initContainers", []), *pod["containers"]):
            context = container["securityContext"]
            assert not context.get("privileged")
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"]["drop"] == ["ALL"]
            rights[container["name"]] = context["capabilities"].get("add", [])
    assert rights == {
        "install-cni": [],
        "router": ["NET_ADMIN", "NET_RAW", "SYS_ADMIN"],
        "datapath": ["NET_ADMIN"],
    }


def test_a_new_manifest_leaves_what_carries_frames_alone() -> None:
    datapath = daemon_set("weavepy-datapath")
    assert datapath["spec"]["updateStrategy"] == {"type": "OnDelete"}
    assert datapath["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    (router,) = daemon_set()["spec"]["template"]["spec"]["containers"]
    assert "--separate-datapath" in router["command"]


async def test_the_rights_are_exactly_what_the_code_asks_for() -> None:
    rules = rules_of([*of_kind("ClusterRole"), *of_kind("Role")])
    server = StandIn(rules)
    await server.start()
    await server.put_node("n1", "u1", "10.0.0.1")
    api = Api(ApiServer(server.url), ("kube-system", "weavepy"))
    try:
        for kind in (NODES, NAMESPACES, PODS, POLICIES):
            page = await api.list(kind)
            async with api.watch(kind, page.version):
                pass
        await api.get_node("n1")
        await api.say_network_is_up("n1")
        await api.read_register()
        await api.write_register({})
        requests = [name for name in dir(Api) if not name.startswith("_") and name != "close"]
        assert len(requests) == 6, "every request of the client was made"
    finally:
        await api.close()
        await server.stop()
    allowed = {(verb, resource) for resource, verbs in rules.items() for verb in verbs}
    assert server.verbs() == allowed


def test_the_register_alone_can_be_written_and_its_name_is_what_the_router_looks_for() -> None:
    (role,) = of_kind("Role")
    (config_map,) = of_kind("ConfigMap")
    assert [rule.get("resourceNames") for rule in role["rules"]] == [["weavepy"]]
    assert config_map["metadata"] == config_map["metadata"] | {
        "name": "weavepy",
        "namespace": "kube-system",
    }
    assert "data" not in config_map, "applying the manifest again must leave the register alone"


async def test_without_a_register_nothing_is_decided() -> None:
    server = StandIn()
    await server.start()
    server.make_register(None)
    api = Api(ApiServer(server.url), ("kube-system", "weavepy"))
    try:
        with pytest.raises(ApiNotFound):
            await api.write_register({"ring": "{}"})
    finally:
        await api.close()
        await server.stop()
    assert server.register is None


def test_kustomize_builds_the_same_objects() -> None:
    kubectl = PROGRAMS / "kubectl"
    if not kubectl.exists():
        pytest.skip("no kubectl: run script/kube-build")
    built = subprocess.run(
        [kubectl, "kustomize", str(MANIFEST.parent)],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": "/nonexistent", "PATH": os.environ["PATH"]},
    ).stdout

    def shown(found: list[dict[str, Any]]) -> list[str]:
        return sorted(json.dumps(one, sort_keys=True) for one in found)

    assert shown(list(yaml.safe_load_all(built))) == shown(objects())
