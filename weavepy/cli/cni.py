"""`weavepy cni install`: the plugin and its configuration, where runtimes look for them."""

from pathlib import Path

import click

from cni import native
from cni.call import VERSIONS, is_word
from cni.conflist import DEFAULT_VERSION, FILE_NAME, IPAM_PLUGIN, NETWORK, PLUGIN, conflist
from cni.executable import INTERPRETER, script, write_whole
from weavepy.base.errors import UsageError
from weavepy.base.settings import directories
from weavepy.cli.command import command, group
from weavepy.daemon.options import parse_network

CHAINED = ("portmap", "bandwidth")
DEFAULT_RUN_DIRECTORY = Path("/run/weavepy")
DEFAULT_STATE_DIRECTORY = Path("/var/lib/weavepy")


@group(
    ("weavepy cni install", "for containerd, CRI-O and Podman, where they look by default"),
)
@click.pass_context
def cni(ctx: click.Context) -> None:
    """Have container runtimes put their containers on the network."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@command(
    ("weavepy cni install", "plugin and configuration, for the router of this host"),
    ("weavepy cni install --chain portmap", "with hostPorts, by the plugin of that name"),
    ("weavepy cni install --no-conf", "only the plugin; you write the configuration"),
    ("weavepy cni install --name blue --subnet 10.40.0.0/16", "a network of its own subnet"),
)
@click.option(
    "--bin-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/opt/cni/bin"),
    show_default=True,
    help="Where the runtime looks for plugins.",
)
@click.option(
    "--conf-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/etc/cni/net.d"),
    show_default=True,
    help="Where it looks for configurations; it takes the first by name.",
)
@click.option("--conf/--no-conf", default=True, help="Write a configuration.")
@click.option("--name", default=NETWORK, show_default=True, help="The network's name.")
@click.option("--file", "file_name", default=FILE_NAME, show_default=True, help="The file's name.")
@click.option(
    "--cni-version",
    type=click.Choice(VERSIONS),
    default=DEFAULT_VERSION,
    show_default=True,
    help="What the runtime and all chained plugins speak.",
)
@click.option("--subnet", default="", metavar="CIDR", help="Of the network, within the universe.")
@click.option(
    "--chain",
    "chained",
    multiple=True,
    type=click.Choice(CHAINED),
    help="A plugin that comes after ours. May be given several times.",
)
@click.option("--interpreter", default=INTERPRETER, show_default=True, help="What runs the plugin.")
def install(
    bin_dir: Path,
    conf_dir: Path,
    conf: bool,
    name: str,
    file_name: str,
    cni_version: str,
    subnet: str,
    chained: tuple[str, ...],
    interpreter: str,
) -> None:
    """Write the CNI plugin and a configuration for it; prints the files.

    Each file is there whole or not at all, and the configuration comes last: a runtime may use it
    at once. Installing again replaces them, also while pods are started. The plugin is a native
    program where it was compiled already or a C compiler is found, else a Python script.
    """
    if not is_word(name):
        raise UsageError(f"--name {name!r}: letters, digits, '_', '.' and '-' only")
    if subnet:
        parse_network("--subnet", subnet)
    where = directories()
    try:
        plugin = native.executable(interpreter)
    except native.CannotCompile as error:
        click.echo(f"a Python script, some 6 ms per pod slower than a program: {error}", err=True)
        plugin = script(interpreter)
    for file in (PLUGIN, IPAM_PLUGIN):
        write_whole(bin_dir / file, plugin, 0o755)
        click.echo(bin_dir / file)
    if not conf:
        return
    content = conflist(
        name,
        cni_version,
        subnet=subnet,
        run_directory=str(where.run) if where.run != DEFAULT_RUN_DIRECTORY else "",
        state_directory=str(where.state) if where.state != DEFAULT_STATE_DIRECTORY else "",
        chained=chained,
    )
    write_whole(conf_dir / file_name, content, 0o644)
    click.echo(conf_dir / file_name)


cni.add_command(install)
