"""What the manifest can say of a model file: five kinds of origin, one set of facts.

Facts that nobody has stated (a size, a digest, a hub commit) are None, never a guess. What is None is
recorded at the first pull in the user's ledger and pinned from then on (trust on first use).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Revision = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]

RUNTIME_SUFFIXES = (".safetensors", ".onnx", ".task", ".tflite", ".npy", ".json", ".dat")
"""Formats that are read at run time. None of them can carry code; `.npy` is read without pickle."""


class Conversion(BaseModel):
    """How a legacy file (a pickle) becomes one that is safe to read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["state_dict", "face_model"] = Field(
        default="state_dict", description="A torch state dict, or 3DDFA-V3's pickled dict of numpy arrays."
    )
    inside: tuple[str, ...] = Field(
        default=(), description="Keys that lead to the state dict within the file, outermost first."
    )
    strip: tuple[str, ...] = Field(default=(), description="Prefixes that are taken off the tensors' names.")
    keep: str = Field(default="", description="Only tensors whose names have this prefix are kept.")
    way_out: str = Field(default="", description="What to do when the file holds a whole module.")


class Entry(BaseModel):
    """What is said of every model file, wherever it comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name by which stages ask for the file.")
    licence: str = Field(description="SPDX identifier or short name of the licence of the weights.")
    licence_url: str = Field(default="", description="Where its text stands.")
    commercial_ok: bool = Field(description="Whether that licence allows commercial use.")
    gate: str = Field(default="", description="What the origin wants before it hands the file out.")
    trained_on: str = Field(description="Data the weights were trained on, as far as is known.")
    note: str = Field(default="", description="What a user should know besides.")
    table: str = Field(default="", description="Name of the table of tensor names and shapes, see `tables`.")
    ignored: tuple[str, ...] = Field(
        default=(), description="Patterns of tensors in the file that are in no table, as for `fnmatch`."
    )

    @property
    def asks(self) -> bool:
        """Whether its licence must be accepted before use: it restricts use, or nobody has stated it."""
        return not self.commercial_ok or bool(self.gate)


class PackageWeight(Entry):
    """A file inside a pinned Python package."""

    kind: Literal["package"] = "package"
    distribution: str = Field(description="Name to install, as on the package index.")
    version: str = Field(description="Pinned version of the distribution.")
    module: str = Field(description="Top-level import name, under which the file lies.")
    file: str = Field(description="Path below the module's folder, with `/`.")
    size: int = Field(gt=0, description="Bytes.")
    sha256: Sha256 = Field(description="Digest of the file.")


class HubWeight(Entry):
    """A file of a Hugging Face repository at an exact commit."""

    kind: Literal["hub"] = "hub"
    repository: str = Field(pattern=r"^[^/]+/[^/]+$", description="Hub id, `owner/name`.")
    repository_type: Literal["model", "dataset"] = "model"
    revision: Revision | None = Field(
        default=None,
        description="Commit; branches and tags move, so not those. None: fixed by the first pull.",
    )
    file: str = Field(description="Path in the repository.")
    size: int | None = Field(default=None, gt=0, description="Bytes, where stated.")
    sha256: Sha256 | None = Field(default=None, description="Digest of the file, where stated.")
    conversion: Conversion | None = Field(default=None, description="How a legacy file is made safe.")


class HubFolderWeight(Entry):
    """Several files of a Hugging Face repository, used as one folder."""

    kind: Literal["hub_folder"] = "hub_folder"
    repository: str = Field(pattern=r"^[^/]+/[^/]+$", description="Hub id, `owner/name`.")
    revision: Revision | None = Field(default=None, description="Commit. None: fixed by the first pull.")
    files: tuple[str, ...] = Field(min_length=1, description="Patterns of the files, as for `fnmatch`.")


class LocalWeight(Entry):
    """A file that the user has put somewhere, for licences that forbid any other way."""

    kind: Literal["local"] = "local"
    path: Path = Field(description="Where it is; a relative path lies below the folder of weights.")
    size: int | None = Field(default=None, gt=0, description="Bytes, where stated.")
    sha256: Sha256 | None = Field(default=None, description="Digest of the file, where stated.")
    how_to_get: str = Field(default="", description="Where a person gets the file.")
    conversion: Conversion | None = Field(default=None, description="How a legacy file is made safe.")


class OwnWeight(Entry):
    """A file of this project, inside one of its packages."""

    kind: Literal["own"] = "own"
    module: str = Field(description="Top-level package of this project.")
    file: str = Field(description="Path below the package's folder, with `/`.")
    made_by: str = Field(description="Command that makes the file.")


WeightEntry = PackageWeight | HubWeight | HubFolderWeight | LocalWeight | OwnWeight
PulledWeight = HubWeight | HubFolderWeight


def origin(entry: WeightEntry) -> str:
    """Where an entry's file comes from, for people."""
    match entry:
        case PackageWeight():
            return f"{entry.file} of package {entry.distribution} {entry.version}"
        case OwnWeight():
            return f"{entry.file} of this project's package {entry.module}"
        case HubWeight():
            return f"{entry.file} of {entry.repository}"
        case HubFolderWeight():
            return f"{', '.join(entry.files)} of {entry.repository}"
        case LocalWeight():
            return entry.path.name
