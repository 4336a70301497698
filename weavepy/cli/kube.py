"""`weavepy kube`: the router of one Kubernetes node, in the foreground, in a pod of its own."""

import dataclasses
from pathlib import Path
from typing import Any

from kube.shell.server import SERVICE_ACCOUNT, ApiServer, url_for_pods
from weavepy.base.errors import UsageError
from weavepy.cli.background import wait_until_gone
from weavepy.cli.command import command, require_network_rights
from weavepy.cli.launch import run_router
from weavepy.cli.router_options import option, parse_router, router_options
from weavepy.daemon.options import KubernetesOptions


@command(
    ("kubectl apply -f docker/weavepy.yaml", "how it is meant to be started"),
    (
        "weavepy kube --node-name n1 --secret-file secret --api-server https://10.0.0.1:6443",
        "on a host, outside of any pod",
    ),
)
@option("--node-name", "The name of this node's object; also the nickname.", required=True)
@option(
    "--secret-file",
    "Take the mesh's secret from this file: a join token or 64 hex digits.",
    metavar="FILE",
)
@option("--password-file", "Derive it from the password in this file.", metavar="FILE")
@option("--insecure", "No encryption and no authentication, for all nodes.", is_flag=True)
@option("--api-server", "Where the API server is. [default: as a pod is told]", metavar="URL")
@option(
    "--token-file",
    "The token of the service account; read anew for each request.",
    default=str(SERVICE_ACCOUNT / "token"),
    show_default=True,
    metavar="FILE",
)
@option(
    "--ca-file",
    "Who signs the API server's certificate.",
    default=str(SERVICE_ACCOUNT / "ca.crt"),
    show_default=True,
    metavar="FILE",
)
@option(
    "--register",
    "The ConfigMap that holds what the nodes decide once.",
    default="kube-system/weavepy",
    show_default=True,
    metavar="NAMESPACE/NAME",
)
@option(
    "--separate-datapath",
    "The datapath is another pod's (`weavepy datapath`): frames flow while this one is replaced.",
    is_flag=True,
)
@option(
    "--allow-requested-addresses",
    "Pods get the addresses that their annotation weavepy.io/addresses asks for.",
    is_flag=True,
)
@router_options
def kube(
    node_name: str,
    secret_file: str | None,
    password_file: str | None,
    insecure: bool,
    api_server: str | None,
    token_file: str,
    ca_file: str,
    register: str,
    separate_datapath: bool,
    allow_requested_addresses: bool,
    **router: Any,
) -> int:
    """Run the router of this Kubernetes node, with the API server as its source of peers.

    All nodes of the cluster are dialled, as they come and go. The first ring is decided through
    the register, and the addresses of a node go to others when its object is deleted.
    """
    router["nickname"] = router["nickname"] or node_name
    options = parse_router((), router)
    namespace, slash, name = register.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise UsageError(f"--register {register!r}: expected NAMESPACE/NAME")
    server = ApiServer(api_server or url_for_pods(), Path(token_file), Path(ca_file))
    require_network_rights("kube")
    where = options.directories
    wait_until_gone(where)  # the router of the pod before this one, which may still be at its end

    from weavepy.daemon.secrets import resolve_secret

    secret = resolve_secret(
        where, password_file=password_file, secret_file=secret_file, insecure=insecure
    )
    options = dataclasses.replace(
        options.with_secret(secret.secret, secret.encrypted),
        separate_datapath=separate_datapath,
        kubernetes=KubernetesOptions(
            node_name, server, (namespace, name), allow_requested_addresses
        ),
    )
    return run_router(options)
