"""`orchard ray`: the Ray cluster of this machine, and the warm processes of a lake."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.options import DEFAULT_LAKE, JsonOption, LakeOption, print_json, say
from resources.compute.engine_choice import EngineChoice, choose_engine
from resources.lake.lake import Lake

ray_app = typer.Typer(
    name="ray",
    help="The Ray cluster of this machine, and the processes that keep models loaded.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="HOST:PORT",
        help="An existing Ray cluster, else ORCHARD_RAY_ADDRESS, else this machine's own.",
    ),
]


@ray_app.command("start")
def start_command(
    cpus: Annotated[int | None, typer.Option(min=1, help="CPU cores to give out; else all.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs to give out; else all.")] = None,
    json: JsonOption = False,
) -> None:
    """Start a cluster of this machine: on the loopback interface, with a token that only you can read.

    `orchard run --engine ray` does it by itself. It stays until `orchard ray stop`.
    """
    from resources.compute.ray_cluster import own_cluster, start_own_cluster

    was_there = own_cluster() is not None
    cluster = start_own_cluster(num_cpus=cpus, num_gpus=gpus, report=say)
    if json:
        print_json({"address": cluster.address, "started": not was_there})
    elif was_there:
        typer.echo(f"it runs already, at {cluster.address}")


@ray_app.command("stop")
def stop_command(json: JsonOption = False) -> None:
    """End this machine's own cluster and all its processes; what was committed stays."""
    from resources.compute.ray_cluster import stop_own_cluster

    stopped = stop_own_cluster()
    if json:
        print_json({"stopped": stopped})
    else:
        typer.echo("stopped" if stopped else "no cluster of this machine was running")


@ray_app.command("status")
def status_command(
    lake: LakeOption = DEFAULT_LAKE, ray_address: AddressOption = None, json: JsonOption = False
) -> None:
    """The nodes of a cluster, and which processes of this lake are warm there."""
    from resources.compute import ray_actors

    if not _joined(lake, ray_address, json):
        return
    import ray

    nodes = [
        {"address": node["NodeManagerAddress"]}
        | {name: node["Resources"].get(name, 0) for name in ("CPU", "GPU", "memory")}
        for node in ray.nodes()
        if node["Alive"]
    ]
    actors = ray_actors.named_actors(_namespace(lake))
    about = ray_actors.about(actors)
    told = [
        {"stages": actor.role, "loaded": actor.key, "ready": actor in about}
        | ({"host": about[actor].host, "process": about[actor].process} if actor in about else {})
        | ({"tasks": about[actor].busy} if actor in about else {})
        for actor in actors
    ]
    if json:
        print_json({"nodes": nodes, "actors": told})
        return
    for node in nodes:
        memory = node["memory"] / 2**30
        typer.echo(f"node {node['address']}: {node['CPU']:g} CPU, {node['GPU']:g} GPU, {memory:.1f} GiB")
    for item in told:
        where = f"process {item['process']} on {item['host']}" if item["ready"] else "waits for room"
        doing = "at work" if item.get("tasks") else "idle" if item["ready"] else "not started"
        typer.echo(f"{item['stages']}: {where}, {doing}")
    if not told:
        typer.echo("no warm process of this lake")


@ray_app.command("reap")
def reap_command(
    lake: LakeOption = DEFAULT_LAKE,
    ray_address: AddressOption = None,
    busy: Annotated[bool, typer.Option("--busy", help="Also those at work; their work is repeated.")] = False,
    json: JsonOption = False,
) -> None:
    """End the warm processes of this lake, so that their memory is free; the next run makes new ones.

    After a deploy this is not needed: a run ends those that have other code or weights loaded.
    """
    from resources.compute import ray_actors

    if not _joined(lake, ray_address, json):
        return
    actors = ray_actors.named_actors(_namespace(lake))
    ended = ray_actors.reap(actors)
    if busy:
        ray_actors.end(actors)
        ended = actors
    if json:
        print_json({"ended": [actor.name for actor in ended], "left": len(actors) - len(ended)})
    else:
        left = len(actors) - len(ended)
        typer.echo(
            f"ended {len(ended)} processes" + (f"; {left} are at work and stay (--busy)" if left else "")
        )


def _joined(lake: str, address: str | None, json: bool) -> bool:
    """Join the cluster; False, said aloud, where this machine's own is meant and does not run."""
    from resources.compute.ray_cluster import connect, own_cluster

    choice: EngineChoice = choose_engine("ray", address)
    if choice.address is None and own_cluster() is None:
        nothing: dict[str, Any] = {"nodes": [], "actors": [], "ended": [], "left": 0}
        if json:
            print_json(nothing)
        else:
            typer.echo("no cluster of this machine is running; `orchard ray start` starts one")
        return False
    connect(choice.address, _namespace(lake), auth=choice.auth, report=say)
    return True


def _namespace(lake: str) -> str:
    from assets.engine_ray import lake_namespace

    return lake_namespace(Lake.locate(lake).uri)
