"""Which engine is used is said by options, then by the environment, and always with a reason."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from resources.compute.demand import StageResources
from resources.compute.engine_choice import choose_engine
from resources.compute.ray_actors import Role, fitting
from resources.compute.source import source_digest
from resources.compute.usage import DeviceUse, device_use

VARIABLES = ("ORCHARD_ENGINE", "ORCHARD_RAY_ADDRESS", "ORCHARD_RAY_ACTORS", "ORCHARD_RAY_AUTH")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_local_unless_something_else_is_asked_for(monkeypatch) -> None:
    assert choose_engine().name == "local"
    assert choose_engine().reason == "no other engine was asked for"
    monkeypatch.setenv("ORCHARD_RAY_ADDRESS", "10.0.0.5:6379")
    assert choose_engine().name == "local"  # an address alone starts nothing


def test_the_environment_is_asked_where_no_option_is_given(monkeypatch) -> None:
    for name, value in zip(VARIABLES, ("ray", "10.0.0.5:6379", "3", "disabled"), strict=True):
        monkeypatch.setenv(name, value)
    choice = choose_engine()
    assert (choice.name, choice.address, choice.actors, choice.auth) == (
        "ray",
        "10.0.0.5:6379",
        3,
        "disabled",
    )
    assert (
        choice.reason == "ORCHARD_ENGINE says so; the cluster at 10.0.0.5:6379, up to 3 processes of a stage"
    )
    assert choose_engine("local").name == "local"
    assert choose_engine("ray", actors=5).actors == 5


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ORCHARD_ENGINE", "spark", "ORCHARD_ENGINE is 'spark'; it is one of local, ray"),
        ("ORCHARD_RAY_ACTORS", "many", "ORCHARD_RAY_ACTORS is 'many'; it should be a number"),
        ("ORCHARD_RAY_ACTORS", "0", "at least one actor"),
        ("ORCHARD_RAY_AUTH", "perhaps", "one of token, disabled"),
    ],
)
def test_what_does_not_exist_is_refused(monkeypatch, name: str, value: str, told: str) -> None:
    monkeypatch.setenv("ORCHARD_ENGINE", "ray")
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=told):
        choose_engine()


def test_rays_options_without_ray_are_refused() -> None:
    with pytest.raises(ValueError, match="are for --engine ray"):
        choose_engine("local", actors=2)


@pytest.mark.parametrize(
    ("asked", "node", "count"),
    [
        (StageResources(), {"CPU": 8.0}, 8),
        (StageResources(num_gpus=0.25), {"CPU": 8.0, "GPU": 1.0}, 4),
        (StageResources(num_gpus=0.3), {"CPU": 8.0, "GPU": 1.0}, 3),
        (StageResources(num_gpus=1, num_cpus=6), {"CPU": 8.0, "GPU": 2.0}, 1),
        (StageResources(num_gpus=1), {"CPU": 8.0}, 0),
        (StageResources(memory_bytes=3 * 2**30), {"CPU": 8.0, "memory": 8.0 * 2**30}, 2),
    ],
)
def test_how_many_processes_a_node_holds(asked: StageResources, node: dict[str, float], count: int) -> None:
    assert fitting(asked, node) == count


def test_parts_of_several_gpus_are_refused() -> None:
    with pytest.raises(ValidationError, match="above 1 it must be a whole number"):
        StageResources(num_gpus=1.5)
    assert StageResources(num_gpus=0.5, memory_bytes=2**31).told() == "0.5 GPU, 1 CPU, 2.0 GiB of memory"


def test_an_actors_name_holds_all_that_it_loads_and_takes() -> None:
    role = Role("orchard-x", "iris+masks", "code, weights", StageResources(), {"ORCHARD_ATTENTION": "math"})
    others = [
        Role("orchard-x", "iris+masks", "other code", StageResources(), {"ORCHARD_ATTENTION": "math"}),
        Role("orchard-x", "iris+masks", "code, weights", StageResources(num_gpus=1), role.environment),
        Role("orchard-x", "iris+masks", "code, weights", StageResources(), {"ORCHARD_ATTENTION": "sdpa"}),
    ]
    assert len({item.key for item in (role, *others)}) == 4
    actor = role.actor(3)
    assert (actor.role, actor.key, actor.index) == ("iris+masks", role.key, 3)


def test_the_source_and_the_device_are_told() -> None:
    assert len(source_digest()) == 16
    assert device_use().device == "cpu"
    assert DeviceUse("cuda", 3 * 2**30, 24 * 2**30, 0.87).told() == "cuda: 3.0 of 24.0 GiB, 87% busy"
