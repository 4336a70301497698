"""`weavepy attach`, `detach`, `ps`, `expose` and `hide`: who is on the network on this host.

`attach` and `detach` run once per container, so they print plain lines and load no more than
that takes.
"""

import ipaddress
import os
from collections.abc import Callable, Iterable
from typing import Any

import click

from weavepy.base.errors import UsageError
from weavepy.cli import output
from weavepy.cli.command import Function, api, command, json_option, timeout_option
from weavepy.client import schema
from weavepy.daemon.options import parse_network


def _addresses_options(function: Function) -> Function:
    function = click.option(
        "--net",
        "nets",
        multiple=True,
        metavar="CIDR|default",
        help="An address out of this subnet. May be given several times.",
    )(function)
    return click.option(
        "--ip",
        "ips",
        multiple=True,
        metavar="ADDRESS/LENGTH",
        help="This very address. May be given several times.",
    )(function)


def _container_options(function: Function) -> Function:
    function = click.option(
        "--container", metavar="ID", help="A containerd or Docker container, or how its id begins."
    )(function)
    function = click.option(
        "--pid", type=click.IntRange(min=1), metavar="N", help="The namespace of this process."
    )(function)
    return click.argument("namespace", required=False)(function)


@command(
    ("weavepy attach web", "the namespace `web` of `ip netns`, an address of the default subnet"),
    ("weavepy attach --container 3f2a91", "a container"),
    ("weavepy attach --ip 10.32.0.9/12 web", "with this very address"),
    ("weavepy attach --label app=web --namespace shop web", "as network policies know it"),
    ("weavepy attach --net default --net 10.40.1.0/24 web", "with addresses in two subnets"),
)
@_container_options
@_addresses_options
@click.option(
    "--interface", default="ethwe", show_default=True, help="The interface's name inside."
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="What network policies select it by. May be given several times.",
)
@click.option("--namespace", "pod_namespace", metavar="NAME", help="Its namespace for policies.")
@click.option("--name", "pod_name", metavar="NAME", help="Its name for policies.")
@timeout_option(30.0, "addresses")
@json_option
def attach(
    namespace: str | None,
    pid: int | None,
    container: str | None,
    ips: tuple[str, ...],
    nets: tuple[str, ...],
    interface: str,
    labels: tuple[str, ...],
    pod_namespace: str | None,
    pod_name: str | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Give a container or network namespace addresses on the network.

    NAMESPACE is a name as `ip netns` lists it, or a path. Prints the addresses, one to a line.
    Attaching what is attached already adds what is missing and prints the same.
    """
    request = schema.AttachRequest(
        **_which(namespace, pid, container),
        addresses=_addresses(ips, nets),
        interface=interface,
        labels=_labels(labels),
        pod_namespace=pod_namespace or "",
        pod_name=pod_name or "",
        timeout_s=timeout_s,
    )
    answer = api().attach(request)
    _print(answer, answer.addresses, as_json)


@command(
    ("weavepy detach web", "free its addresses and remove its interface"),
    ("weavepy detach --ip 10.40.1.5/24 web", "only take this address away"),
)
@_container_options
@_addresses_options
@json_option
def detach(
    namespace: str | None,
    pid: int | None,
    container: str | None,
    ips: tuple[str, ...],
    nets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Take a container or network namespace off the network; prints the addresses it had."""
    request = schema.DetachRequest(
        **_which(namespace, pid, container), addresses=_addresses(ips, nets)
    )
    answer = api().detach(request)
    _print(answer, answer.released, as_json)


@command(
    ("weavepy ps", "list it"),
    ("weavepy ps --json", "the same for programs"),
)
@json_option
def ps(as_json: bool) -> None:
    """List what is attached on this host, with interfaces and addresses."""
    answer = api().attachments()
    if as_json:
        output.show_json(answer)
    else:
        output.show(views_of(answer))


@command(
    ("weavepy expose", "give this host an address of the default subnet"),
    ("weavepy expose --ip 10.32.0.1/12", "this very address"),
    ("weavepy expose --no-masquerade", "let other machines see container addresses"),
)
@_addresses_options
@click.option(
    "--masquerade/--no-masquerade",
    default=True,
    show_default=True,
    help="Hide containers behind this host's address when they talk to the outside.",
)
@json_option
def expose(ips: tuple[str, ...], nets: tuple[str, ...], masquerade: bool, as_json: bool) -> None:
    """Put this host itself on the network; prints its addresses there."""
    request = schema.ExposeRequest(addresses=_addresses(ips, nets), masquerade=masquerade)
    answer = api().expose(request)
    _print(answer, answer.addresses, as_json)


@command(
    ("weavepy hide", "take all of this host's addresses away"),
    ("weavepy hide --ip 10.32.0.1/12", "only this one"),
)
@_addresses_options
@json_option
def hide(ips: tuple[str, ...], nets: tuple[str, ...], as_json: bool) -> None:
    """Take this host off the network again; prints the addresses that are left."""
    answer = api().hide(schema.HideRequest(addresses=_addresses(ips, nets)))
    _print(answer, answer.addresses, as_json)


def views_of(answer: schema.AttachmentList) -> list[output.Block]:
    from weavepy.cli import views

    return views.attachments(answer.attachments)


def _which(namespace: str | None, pid: int | None, container: str | None) -> dict[str, Any]:
    """Return the members of a request that say whose namespace is meant: exactly one."""
    given = {"namespace": namespace, "pid": pid, "container": container}
    meant = {name: value for name, value in given.items() if value is not None}
    if len(meant) != 1:
        raise UsageError("name exactly one of NAMESPACE, --pid N and --container ID")
    if namespace is not None and "/" in namespace:
        return {"namespace": os.path.abspath(namespace)}
    if namespace == "" or container == "":
        raise UsageError("the name of a namespace or container cannot be empty")
    return meant


def _addresses(ips: Iterable[str], nets: Iterable[str]) -> list[str]:
    return [
        *(f"ip:{_checked(_check_ip, text)}" for text in ips),
        *(f"net:{_checked(_check_net, text)}" for text in nets),
    ]


def _labels(texts: Iterable[str]) -> dict[str, str]:
    labels = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--label {text!r} is not KEY=VALUE, such as app=web")
        labels[key] = value
    return labels


def _checked(check: Callable[[str], object], text: str) -> str:
    check(text)
    return text


def _check_ip(text: str) -> None:
    wanted = "expected ADDRESS/LENGTH such as 10.32.0.9/12"
    if "/" not in text:
        raise UsageError(f"--ip {text!r} has no length: {wanted}")
    try:
        ipaddress.ip_interface(text)
    except ValueError as error:
        raise UsageError(f"--ip {text!r} is not an address: {wanted}") from error


def _check_net(text: str) -> None:
    if text != "default":
        parse_network("--net", text)


def _print(answer: object, lines: Iterable[str], as_json: bool) -> None:
    if as_json:
        output.show_json(answer)
        return
    for line in lines:
        click.echo(output.printable(line))
