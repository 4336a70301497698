"""What `weavepy policy ...` reads, asks and prints."""

import json
from pathlib import Path

import pytest

from tests.weavepy.cli.conftest import Command
from tests.weavepy.cli.stand_in import StandIn

POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}}
"""
NAMESPACE = '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}'


def asked(router: StandIn, path: str) -> list[str]:
    (body,) = [body for _, asked, body in router.requests if asked == path]
    assert body is not None
    objects = body["objects"]
    assert isinstance(objects, list)
    return [one["kind"] for one in objects]


def test_documents_lists_and_directories_are_read(
    weavepy: Command, router: StandIn, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(f"---\n{POLICY}---\n---\n{POLICY}")
    (tmp_path / "b.json").write_text(NAMESPACE)
    (tmp_path / "notes.txt").write_text("no object")
    (tmp_path / "c.yml").write_text(f"kind: List\nitems:\n- {NAMESPACE}\n")
    done = weavepy("policy", "apply", "-f", str(tmp_path))
    assert done.returncode == 0, done.stderr
    policy = "NetworkPolicy"
    assert asked(router, "/v1/policy/apply") == [policy, policy, "Namespace", "Namespace"]
    assert done.stdout.splitlines() == [
        "NetworkPolicy default/deny created",
        "  it cannot be compiled, so what it selects is closed: spec has a field 'Ingress'",
        "Namespace shop changed",
    ]


def test_standard_input_is_read(weavepy: Command, router: StandIn) -> None:
    assert weavepy("policy", "delete", "-f", "-", stdin=POLICY).returncode == 0
    assert asked(router, "/v1/policy/delete") == ["NetworkPolicy"]


@pytest.mark.parametrize(
    ("text", "says"), [("a: [", "is no YAML"), ("- 1", "no object"), ("just text", "no object")]
)
def test_what_is_no_object_is_refused_before_anything_is_asked(
    weavepy: Command, router: StandIn, text: str, says: str
) -> None:
    done = weavepy("policy", "apply", "-f", "-", stdin=text)
    assert done.returncode == 2
    assert says in done.stderr
    assert not router.requests


def test_a_directory_without_objects_is_refused(weavepy: Command, tmp_path: Path) -> None:
    done = weavepy("policy", "apply", "-f", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_labels_of_an_attachment_are_passed_on(weavepy: Command, router: StandIn) -> None:
    line = "attach --label app=web --label tier= --namespace shop --name front web"
    assert weavepy(*line.split()).returncode == 0
    ((_, _, body),) = router.requests
    assert body is not None
    assert body["labels"] == {"app": "web", "tier": ""}
    assert (body["pod_namespace"], body["pod_name"], body["namespace"]) == ("shop", "front", "web")
    assert weavepy("attach", "--label", "app", "web").returncode == 2


def test_explain_and_lint_say_by_their_exit_code_what_they_found(
    weavepy: Command, router: StandIn
) -> None:
    explained = weavepy("policy", "explain", "--from", "web", "--to", "db")
    assert (explained.stdout, explained.returncode) == ("web -> db: is blocked\n", 1)
    assert weavepy("policy", "lint").returncode == 1


def test_status_and_matrix_show_tables(weavepy: Command, router: StandIn) -> None:
    shown = weavepy("policy").stdout
    assert "default/deny" in shown
    assert "app=web" in shown
    lines = weavepy("policy", "matrix").stdout.splitlines()
    assert [line.split() for line in lines if "default/" in line] == [
        ["1", "default/db", "·", "-"],
        ["2", "default/web", "yes", "·"],
    ]


def test_trace_says_of_each_drop_who_was_kept_from_whom_and_why(
    weavepy: Command, router: StandIn
) -> None:
    shown = weavepy("policy", "trace", "--to", "web").stdout.splitlines()
    assert shown[0] == "3 more were left out"
    assert shown[1].endswith(
        "ingress default/db (10.32.0.2) -> default/web (10.32.0.1) 80/tcp (reply)"
    )
    assert shown[2:] == ["    and no rule allows anything"]
    assert router.requests[-1][2] == {
        "source": "",
        "destination": "web",
        "direction": "",
        "count": 0,
    }
    lines = weavepy("policy", "trace", "--json").stdout.splitlines()
    assert json.loads(lines[0])["policies"] == ["default/deny"]
