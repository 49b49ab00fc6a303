"""The house itself: what may be installed, what the repository holds, and that its documents are true."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer.core
import typer.main
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from assets.stage import RowStage
from pipeline.cli import app
from pipeline.profiles import PROFILES
from resources.lake.consent import GENERATIVE_CONSENTS, Consent
from resources.photos.layouts import LAYOUTS
from resources.photos.reasons import Reason

ROOT = Path(__file__).resolve().parents[2]
LARGEST_FILE = 5_000_000
TOP_LEVEL = {
    *("README.md", "README_kor.md", "CHANGELOG.md", "Makefile", "pyproject.toml"),
    *("requirements.lock", "dagster.yaml", "workspace.yaml"),
    *("pipeline", "assets", "resources", "models", "tests", "docs", "tools"),
}

# Spelled in pieces, so that this file may be searched like every other.
MACHINE_PATHS = [f"/{name}/" for name in ("work", "root", "home")]
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("pytorch", "org/whl"),
        ("registry", "npmjs", "org"),
        ("conda", "anaconda", "org"),
        ("proxy", "golang", "org"),
        ("crates", "io"),
    )
]
OUTSIDE_FOLDER = re.compile(rb"(?<![\w.-])/?shared" + rb"/")

FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[[^\]\n]*\]\(([^()\s]+)\)")
COMMAND = re.compile(r"\borchard ((?:[a-z]+(?: \| )?)+)([^\n|;&]*)")


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Every file that git tracks and that is there, relative to the root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [Path(name) for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def pages() -> dict[Path, str]:
    """README, its translation, the change log and everything in docs/, by path relative to the root."""
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")]
    return {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in paths}


@pytest.fixture(scope="module")
def commands() -> dict[str, set[str]]:
    """Options of every `orchard` command; a group such as `weights` has those of its commands."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    found = {}
    for name, command in group.commands.items():
        parts = command.commands.values() if isinstance(command, typer.core.TyperGroup) else [command]
        options = (option for part in parts for item in part.params for option in item.opts)
        found[name] = {"--help", "-h", *options}
    return found


@pytest.fixture(scope="module")
def requirements() -> list[Requirement]:
    """What pyproject.toml asks for, over all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    return [Requirement(line) for line in lines]


def test_torchvision_is_neither_installed_nor_importable() -> None:
    assert importlib.util.find_spec("torchvision") is None
    names = {canonicalize_name(item.metadata["Name"]) for item in metadata.distributions()}
    assert "torch" in names
    assert "torchvision" not in names


def test_no_file_imports_torchvision(tracked: list[Path]) -> None:
    sources = [path for path in tracked if path.suffix == ".py"]
    assert len(sources) > 100
    guilty = [path for path in sources if "torchvision" in _imported(ROOT / path)]
    assert not guilty


def _imported(path: Path) -> set[str]:
    """Top-level names that a source file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def test_installed_packages_agree() -> None:
    if importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"]
    else:  # an environment made by uv holds no pip
        uv = shutil.which("uv")
        assert uv, "neither pip nor uv is here to check the environment"
        command = [uv, "pip", "check", "--python", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lock_holds_versions_and_no_addresses(requirements: list[Requirement]) -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    malformed = [line for line in pins if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==[0-9][A-Za-z0-9.]*", line)]
    assert not malformed
    versions = {canonicalize_name(name): version for name, version in (line.split("==") for line in pins)}
    assert len(versions) == len(pins), "a package is locked twice"
    for wanted in requirements:
        name = canonicalize_name(wanted.name)
        assert name in versions, f"{wanted} is not locked; run `make lock`"
        assert wanted.specifier.contains(versions[name], prereleases=True), (
            f"{wanted}, locked {versions[name]}"
        )
    assert "torchvision" not in versions


def test_the_house_is_complete(tracked: list[Path]) -> None:
    present = {path.parts[0] for path in tracked}
    assert not TOP_LEVEL - present


def test_no_file_names_this_machine_or_a_registry(tracked: list[Path]) -> None:
    forbidden = [text.encode() for text in (*MACHINE_PATHS, *REGISTRY_HOSTS)]
    found = []
    for path in tracked:
        content = (ROOT / path).read_bytes()
        if b"\0" in content[:8192]:
            continue  # weights and pictures: bytes that spell a path by chance name nothing
        found += [f"{path}: {text.decode()}" for text in forbidden if text in content]
        found += [f"{path}: {match[0].decode()}" for match in OUTSIDE_FOLDER.finditer(content)]
    assert not found


def test_no_file_is_large(tracked: list[Path]) -> None:
    large = {str(path): (ROOT / path).stat().st_size for path in tracked}
    assert not {name: size for name, size in large.items() if size > LARGEST_FILE}


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_stage_has_a_file_of_its_name(name: str) -> None:
    graph = PROFILES[name].graph()
    # flux-krea has two stages of its own; flux-schnell is without DiffFace, whose weights forbid its use
    assert len(graph.names) == {"flux-krea": 21, "flux-schnell": 18}.get(name, 19)
    assert not [stage for stage in graph.names if not (ROOT / "assets" / f"{stage}.py").is_file()]


def test_every_document_can_be_reached(pages: dict[Path, str]) -> None:
    reached: set[Path] = set()
    ahead = list(_entrances())
    while ahead:
        page = ahead.pop()
        targets = {_target(page, link) for link in LINK.findall(pages[page])}
        found = {target.relative_to(ROOT) for target in targets if target.is_relative_to(ROOT)} - reached
        reached |= found
        ahead += [target for target in found if target in pages]
    files = {path.relative_to(ROOT) for path in (ROOT / "docs").glob("**/*") if path.is_file()}
    assert len(files) >= 7
    assert not files - reached - set(_entrances())


def _entrances() -> tuple[Path, ...]:
    return Path("README.md"), Path("docs/architecture.md")


def test_every_relative_link_leads_somewhere(pages: dict[Path, str], tracked: list[Path]) -> None:
    broken = []
    elsewhere = {path: (ROOT / path).read_text(encoding="utf-8") for path in tracked if path.suffix == ".md"}
    for page, text in {**elsewhere, **pages}.items():
        for link in LINK.findall(FENCE.sub("", text)):
            if re.match(r"[a-z]+:", link):
                continue
            target, anchor = _target(page, link), link.partition("#")[2]
            if not target.exists() or (anchor and anchor not in _anchors(target)):
                broken.append(f"{page}: {link}")
    assert not broken


def _target(page: Path, link: str) -> Path:
    """The file or folder that a relative link on a page means; an anchor alone means the page."""
    path = unquote(link.partition("#")[0])
    return (ROOT / page).parent.joinpath(path).resolve() if path else ROOT / page


def _anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_command_and_option_in_the_documents_exists(
    pages: dict[Path, str], commands: dict[str, set[str]]
) -> None:
    named: set[str] = set()
    unknown = []
    for page, text in pages.items():
        code = [*FENCE.findall(text), *CODE_SPAN.findall(FENCE.sub("", text))]
        for names, rest in (match for piece in code for match in COMMAND.findall(piece)):
            *others, command = names.removesuffix(" | ").split(" | ")
            named |= {*others, command}
            unknown += [f"{page}: orchard {name}" for name in (*others, command) if name not in commands]
            options = re.findall(r"(?<!\S)(--?[a-z][a-z_-]*)", rest)
            unknown += [
                f"{page}: orchard {command} {option}"
                for option in options
                if command in commands and option not in commands[command]
            ]
    assert not unknown
    assert {"ingest", "plan", "run", "status", "swap", "report", "doctor", "ui"} <= named
    # README: every command but `orchard ui` takes --json
    assert [name for name, options in commands.items() if "--json" not in options] == ["ui"]


def test_the_korean_readme_says_the_same(pages: dict[Path, str]) -> None:
    english, korean = pages[Path("README.md")], pages[Path("README_kor.md")]
    assert FENCE.findall(korean) == FENCE.findall(english)
    assert _links(korean) - {"README.md"} == _links(english) - {"README_kor.md"}
    for level in ("# ", "## "):
        assert _count(korean, level) == _count(english, level)
    assert _rows(korean) == _rows(english)
    assert sorted(set(CODE_SPAN.findall(korean))) == sorted(set(CODE_SPAN.findall(english)))


def _links(text: str) -> set[str]:
    return set(LINK.findall(text))


def _count(text: str, start: str) -> int:
    return sum(line.startswith(start) for line in FENCE.sub("", text).splitlines())


def _rows(text: str) -> list[str]:
    """First cells of all tables."""
    lines = [line for line in FENCE.sub("", text).splitlines() if line.startswith("| ")]
    return [cell for cell in (line.split("|")[1].strip() for line in lines) if "`" in cell or "](" in cell]


def test_the_page_on_photographs_knows_every_reason_consent_and_layout(pages: dict[Path, str]) -> None:
    text = pages[Path("docs/photographs.md")]
    first_cells = re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)
    assert sorted(first_cells) == sorted([*(reason.value for reason in Reason), *map(str, Consent), *LAYOUTS])
    for consent in Consent:
        (row,) = re.findall(rf"^\| `{consent.value}` \|.*\| (\w+) \|$", text, re.MULTILINE)
        assert row == ("yes" if consent in GENERATIVE_CONSENTS else "no"), consent


def test_the_page_on_the_lake_knows_every_column(pages: dict[Path, str]) -> None:
    told = set(CODE_SPAN.findall(pages[Path("docs/lake.md")]))
    for profile in PROFILES.values():
        for stage in profile.graph().stages:
            assert stage.name in told
            columns = {column.name for column in stage.outputs} if isinstance(stage, RowStage) else set()
            assert not columns - told, stage.name
