"""What is read of the objects that network policies are about."""

import json
from typing import Any

import pytest

from kube.core.kinds import Unreadable
from kube.core.pods import NAMESPACES, PODS, POLICIES, WANTED, Namespace, Pod, Port
from tests.policy.objects import labels, policy


def read(**changes: Any) -> Pod:
    document: dict[str, Any] = {
        "metadata": {
            "namespace": "x",
            "name": "web",
            "uid": "u1",
            "labels": {"app": "web"},
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "managedFields": [{"manager": "somebody"}],
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "localhost/x:1"}]},
        "status": {"phase": "Running", "podIP": "10.32.0.1", "podIPs": [{"ip": "10.32.0.1"}]},
    }
    for path, value in changes.items():
        part, _, name = path.partition("_")
        document[part][name] = value
    return PODS.decode(json.dumps(document).encode())


def test_of_a_pod_is_kept_what_policies_need() -> None:
    assert read() == Pod(
        "x",
        "web",
        "u1",
        {"app": "web"},
        ("10.32.0.1",),
        node="n1",
        created="2026-01-02T03:04:05Z",
    )
    assert read().key == "x/web"


def test_what_changes_all_the_time_is_no_change() -> None:
    conditions = [{"type": "Ready", "status": "False"}]
    assert read(metadata_resourceVersion="77", status_conditions=conditions) == read()
    assert read(metadata_labels={"app": "other"}) != read()


def test_a_pod_that_has_just_been_made_has_neither_node_nor_address() -> None:
    early = read(spec_nodeName="", status_podIP="", status_podIPs=None)
    assert (early.node, early.addresses) == ("", ())


def test_both_families_are_read_and_each_address_once() -> None:
    listed = [{"ip": "10.32.0.1"}, {"ip": "fd00::1"}]
    assert read(status_podIPs=listed).addresses == ("10.32.0.1", "fd00::1")


@pytest.mark.parametrize(("phase", "finished"), [("Running", False), ("Failed", True)])
def test_whether_it_has_ended(phase: str, finished: bool) -> None:
    assert read(status_phase=phase).finished is finished


def test_ports_count_if_they_have_a_name_those_of_sidecars_too() -> None:
    http = {"name": "http", "containerPort": 80}
    dns = {"name": "dns", "containerPort": 53, "protocol": "UDP"}
    pod = read(
        spec_containers=[{"ports": [http, {"containerPort": 81}]}],
        spec_initContainers=[
            {"ports": [{"name": "over", "containerPort": 1}]},
            {"restartPolicy": "Always", "ports": [dns]},
        ],
    )
    assert pod.ports == (Port("http", 80, "TCP"), Port("dns", 53, "UDP"))


def test_a_static_pod_has_the_uid_by_which_kubelet_names_it_to_plugins() -> None:
    assert read(metadata_annotations={"kubernetes.io/config.mirror": "hash"}).uid == "hash"


def test_a_wish_for_addresses_is_kept_and_one_that_is_too_long_is_no_address_any_more() -> None:
    assert read(metadata_annotations={WANTED: "10.32.0.9"}).wanted == "10.32.0.9"
    assert read(metadata_annotations={WANTED: "1" * 600}).wanted == "1" * 512 + "..."


def test_namespaces_have_labels_or_none() -> None:
    body = b'{"metadata": {"name": "x", "labels": {"team": "a"}}}'
    assert NAMESPACES.decode(body) == Namespace("x", {"team": "a"})
    assert NAMESPACES.decode(b'{"metadata": {"name": "x"}}') == Namespace("x", {})


def test_a_policy_keeps_its_specification_word_for_word() -> None:
    written = policy("deny", labels(app="web"), ingress=[{"form": []}])
    read = POLICIES.decode(json.dumps(written).encode())
    assert read.key == "x/deny"
    assert json.loads(read.specification) == written["spec"]


def test_an_event_of_another_shape_is_an_error_with_a_name() -> None:
    with pytest.raises(Unreadable):
        PODS.decode_event(b'{"type": "ADDED", "object": {"spec": []}}')
