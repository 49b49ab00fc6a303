"""`orchard weights`: what model files there are, fetching, checking and converting them, their licences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipeline.options import JsonOption, UsageError, print_json
from pipeline.profiles import PROFILES, profile
from pipeline.weights_gate import require_licences
from resources.weights.convert import convert
from resources.weights.entries import (
    HubFolderWeight,
    HubWeight,
    LocalWeight,
    OwnWeight,
    PackageWeight,
    WeightEntry,
    origin,
)
from resources.weights.errors import WeightError
from resources.weights.ledger import read_ledger, weights_folder
from resources.weights.licences import accept, check_licence
from resources.weights.manifest import MANIFEST
from resources.weights.pull import pull
from resources.weights.resolve import find_entry, resolve
from resources.weights.tables import check_table

weights_app = typer.Typer(no_args_is_help=True, help="Model files: list, pull, verify, convert, licences.")

RolesArgument = Annotated[list[str] | None, typer.Argument(metavar="[ROLE]...", help="Roles by name.")]
OfProfile = Annotated[
    str | None, typer.Option("--profile", help=f"All roles of a profile: {', '.join(PROFILES)}.")
]


@weights_app.command("list")
def list_command(json: JsonOption = False) -> None:
    """Every model file: where it comes from, its licence, and whether it is here."""
    rows = [_facts(entry) for entry in MANIFEST.values()]
    if json:
        print_json({"folder": str(weights_folder()), "use": read_ledger().use, "weights": rows})
        return
    for row in rows:
        typer.echo(f"{row['role']}: {row['state']}")
        typer.echo(f"  {row['origin']}")
        typer.echo(
            f"  {row['licence']}; commercial use {'allowed' if row['commercial_ok'] else 'not allowed'}"
        )
    typer.echo(f"Converted and supplied files and the ledger lie in {weights_folder()}.")


@weights_app.command("pull")
def pull_command(
    roles: RolesArgument = None,
    of_profile: OfProfile = None,
    again: Annotated[
        bool, typer.Option("--again", help="Fetch and convert anew, and trust what comes.")
    ] = False,
) -> None:
    """Download weights at pinned commits, or take over files that you put in place.

    What cannot be had is said, and the rest is fetched all the same. A profile whose licences were not all
    accepted is refused before anything is fetched.
    """
    entries = _chosen(roles, of_profile)
    if of_profile is not None:
        require_licences(of_profile, [entry.role for entry in entries])
    failed: list[WeightError] = []
    for entry in entries:
        try:
            found = pull(entry.role, again=again, report=typer.echo)
        except WeightError as error:
            failed.append(error)
            if len(entries) > 1:
                typer.echo(str(error), err=True)
            continue
        typer.echo(f"{entry.role}: {found.path}")
    if len(entries) > 1 and failed:
        names = ", ".join(error.role for error in failed)
        raise WeightError(
            of_profile or "these roles",
            f"{len(failed)} of {len(entries)} model files are not here: {names}",
            "do what is said of each above, then run the command again",
        )
    if failed:
        raise failed[0]


@weights_app.command("verify")
def verify_command(
    roles: RolesArgument = None, of_profile: OfProfile = None, json: JsonOption = False
) -> None:
    """Hash the files that are here and compare their tensors with the published names and shapes.

    Without a name, all that are here. Exit code 1 when one is wrong.
    """
    named = bool(roles or of_profile)
    entries = _chosen(roles, of_profile) if named else list(MANIFEST.values())
    results: list[dict[str, Any]] = []
    for entry in entries:
        try:
            found = resolve(entry.role)
            count = check_table(entry, found.path) if entry.table else None
        except WeightError as error:
            if named or _recorded(entry):
                results.append({"role": entry.role, "ok": False, "detail": str(error)})
            continue
        tensors = "" if count is None else f", {count} tensors as published"
        results.append({"role": entry.role, "ok": True, "detail": f"sha256 {found.sha256}{tensors}"})
    if json:
        print_json({"weights": results})
    else:
        for item in results:
            typer.echo(f"{'ok   ' if item['ok'] else 'WRONG'} {item['role']}: {item['detail']}")
    if not all(item["ok"] for item in results):
        raise typer.Exit(1)


@weights_app.command("convert")
def convert_command(
    role: Annotated[str, typer.Argument(help="Whose conversion applies.")],
    source: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The legacy file.")],
    folder: Annotated[Path, typer.Option("--to", help="Where the safetensors file goes.")] = Path("."),
) -> None:
    """Convert a legacy file to safetensors in a process of its own, without recording anything."""
    entry = find_entry(role)
    how = entry.conversion if isinstance(entry, HubWeight | LocalWeight) else None
    if how is None:
        raise UsageError(f"{role} needs no conversion: {origin(entry)} is safe to read")
    convert(role, source, how, folder, report=typer.echo)


@weights_app.command("licences")
def licences_command(
    use: Annotated[
        Literal["research", "commercial"] | None, typer.Option("--use", help="What the weights are for.")
    ] = None,
    accepted: Annotated[
        list[str] | None, typer.Option("--accept", metavar="ROLE", help="Accept its licence for that use.")
    ] = None,
    of_profile: OfProfile = None,
    json: JsonOption = False,
) -> None:
    """Show licences, set the intended use, and accept licences for it: with `--accept`, once per role.

    `--profile NAME` with `--use` accepts all that the profile needs, after showing them.
    """
    chosen = _chosen(accepted, of_profile) if accepted or of_profile else []
    entries = [entry for entry in chosen if entry.asks]
    if not json:
        for entry in entries or [entry for entry in MANIFEST.values() if entry.asks]:
            _show_licence(entry)
    if use is not None:
        accept(entries, use)
    elif accepted:
        raise UsageError("say what for: --use research or --use commercial")
    ledger = read_ledger()
    if json:
        print_json(ledger.model_dump(mode="json", include={"use", "accepted"}))
        return
    typer.echo(f"intended use: {ledger.use or 'not set'}")
    for role, item in ledger.accepted.items():
        typer.echo(f"accepted {role}: {item.licence}, for {item.use} use, on {item.on}")


def _show_licence(entry: WeightEntry) -> None:
    typer.echo(f"{entry.role}: {entry.licence} {entry.licence_url}".rstrip())
    typer.echo(f"  commercial use: {'allowed' if entry.commercial_ok else 'not allowed'}")
    typer.echo(f"  trained on: {entry.trained_on}")
    for text in (entry.gate and f"its origin wants {entry.gate}", entry.note):
        if text:
            typer.echo(f"  {text}")


def _chosen(roles: list[str] | None, of_profile: str | None) -> list[WeightEntry]:
    if of_profile is not None and of_profile not in PROFILES:
        raise UsageError(f"no profile {of_profile!r}; there are: {', '.join(PROFILES)}")
    wanted = list(roles or [])
    if of_profile is not None:
        wanted += profile(of_profile).weights()
    if not wanted:
        raise UsageError("name a role or a profile; `orchard weights list` shows them")
    return [find_entry(role) for role in dict.fromkeys(wanted)]


def _recorded(entry: WeightEntry) -> bool:
    return isinstance(entry, PackageWeight | OwnWeight) or entry.role in read_ledger().trusted


def _facts(entry: WeightEntry) -> dict[str, Any]:
    pinned = isinstance(entry, PackageWeight | OwnWeight) or bool(getattr(entry, "revision", None))
    trust = read_ledger().trusted.get(entry.role)
    return {
        "role": entry.role,
        "origin": origin(entry),
        "licence": entry.licence,
        "commercial_ok": entry.commercial_ok,
        "trained_on": entry.trained_on,
        "size": getattr(entry, "size", None),
        "sha256": getattr(entry, "sha256", None),
        "pinned": "manifest" if pinned else f"first pull, {trust.on}" if trust else "not yet",
        "state": _state(entry),
    }


def _state(entry: WeightEntry) -> str:
    """In a word or two whether a role's file is here; nothing is hashed for files that were pulled."""
    try:
        check_licence(entry)
    except WeightError:
        return "licence not accepted"
    if isinstance(entry, HubWeight | HubFolderWeight | LocalWeight):
        return "pulled" if entry.role in read_ledger().trusted else "not pulled"
    try:
        resolve(entry.role)
    except WeightError:
        return "not here"
    return "here"
