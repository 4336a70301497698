"""Cases of what a plugin is to refuse, with which code, and of what it is not to refuse."""

from tests.cni.conformance.outcomes import failed, succeeded
from tests.cni.conformance.target import Target


def too_old_for(target: Target, version: str, verb: str) -> None:
    with target.sandbox() as box:
        failed(box.call(verb, version), version, 1)


def without_variable(target: Target, verb: str, variable: str) -> None:
    with target.sandbox() as box:
        done = box.call(verb, "1.0.0", without=variable)
        assert done.code != 0, done
        assert done.answer["code"] == 4, done


def with_bad(target: Target, verb: str, **variables: str) -> None:
    with target.sandbox() as box:
        done = box.call(verb, "1.0.0", **variables)
        assert done.code != 0, done
        assert done.answer["code"] == 4, done
        assert box.interfaces() == set()


def with_input(target: Target, verb: str, data: bytes) -> None:
    with target.sandbox() as box:
        done = box.call(verb, "1.0.0", stdin=data)
        assert done.code != 0, done
        assert done.answer["code"] == 6, done


def an_unknown_command_is_refused(target: Target) -> None:
    done = target.call("EXPLODE", "1.0.0", containerid="a", netns="/x", ifname="eth0")
    assert (done.code != 0, done.answer["code"]) == (True, 4), done


def no_command_is_refused(target: Target) -> None:
    done = target.call("", "1.0.0", without="CNI_COMMAND")
    assert (done.code != 0, done.answer["code"]) == (True, 4), done


def an_unknown_version_is_refused(target: Target) -> None:
    with target.sandbox() as box:
        for version in ("9.9.9", "1.2.0", "latest"):
            done = box.call("ADD", version)
            assert (done.code != 0, done.answer["code"]) == (True, 1), done


def a_network_without_a_name_is_refused(target: Target) -> None:
    with target.sandbox() as box:
        failed(box.call("ADD", "1.0.0", config={"name": ""}), "1.0.0", 7)


def a_bad_name_of_a_network_is_refused(target: Target) -> None:
    with target.sandbox() as box:
        for name in ("a/b", "-a", "a b"):
            failed(box.call("ADD", "1.0.0", config={"name": name}), "1.0.0", 7)


def arguments_that_are_no_pairs_are_refused(target: Target) -> None:
    with target.sandbox() as box:
        failed(box.call("ADD", "1.0.0", args="IP"), "1.0.0", 4)


def unknown_arguments_are_refused_unless_told(target: Target) -> None:
    with target.sandbox() as box:
        failed(box.call("ADD", "1.0.0", args="COLOUR=blue"), "1.0.0")
        succeeded(box.call("ADD", "1.0.0", args="COLOUR=blue;IgnoreUnknown=1"))


def what_kubernetes_passes_is_known(target: Target) -> None:
    pod = "K8S_POD_UID=1;IgnoreUnknown=1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=default"
    with target.sandbox() as box:
        succeeded(box.call("ADD", "1.0.0", args=f"{pod};K8S_POD_INFRA_CONTAINER_ID=abc"))


def logs_go_to_standard_error(target: Target) -> None:
    with target.sandbox() as box:
        done = failed(box.call("ADD", "1.0.0", netns="/nowhere"), "1.0.0")
        assert done.errors
