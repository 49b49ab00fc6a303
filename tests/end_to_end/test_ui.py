"""A person at the UI: one partition chosen, launched, and looked at, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.timeout(900)
SHARD = "shard-00001"


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of the last run for whoever wants to look; pytest keeps the folder of three runs."""
    return tmp_path_factory.mktemp("screenshots")


def test_one_partition_is_materialised_and_its_preview_is_seen(
    server: Any, browser_page: Any, patiently: Callable[..., Any], screenshots: Path
) -> None:
    page = browser_page
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    known = server.runs()

    page.goto(f"{server.url}/assets/landmarks")
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.locator(".bp5-dialog")
    dialog.get_by_text("Select a partition or create one").click()
    page.locator(f"[data-tooltip='{SHARD}']").click()
    page.keyboard.press("Escape")
    dialog.get_by_text("1 partition", exact=True).wait_for()
    dialog.get_by_role("button", name="Launch 1 run").click()

    def launched() -> list[str]:
        return [run for run in server.runs() if run not in known]

    [run] = patiently("launched run", launched, 60)
    patiently("end of the run", lambda: server.runs()[run] in ("SUCCESS", "FAILURE", "CANCELED"), 400)
    assert server.runs()[run] == "SUCCESS"

    page.goto(f"{server.url}/assets/landmarks?view=partitions&partition={SHARD}")
    page.get_by_text("Materialized", exact=True).wait_for()
    page.get_by_text(run[:8]).first.wait_for()
    shown = {
        row.locator("td").nth(0).inner_text(): row.locator("td").nth(1).inner_text()
        for row in page.locator("table tr").all()
        if row.locator("td").count() >= 2
    }
    assert {name: shown[name] for name in ("rows", "ok", "quarantined", "pending")} == {
        "rows": "4",
        "ok": "4",
        "quarantined": "0",
        "pending": "0",
    }
    page.get_by_text("[Show Markdown]").click()
    picture = page.locator(".bp5-dialog img")
    picture.wait_for()
    width, height, drawn = picture.evaluate(
        """async image => {
            await image.decode();
            const canvas = document.createElement('canvas');
            canvas.width = image.naturalWidth;
            canvas.height = image.naturalHeight;
            const context = canvas.getContext('2d');
            context.drawImage(image, 0, 0);
            const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
            let green = 0;
            for (let i = 0; i < data.length; i += 4)
                green += data[i] < 80 && data[i + 1] > 200 && data[i + 2] < 80;
            return [image.naturalWidth, image.naturalHeight, green];
        }"""
    )
    page.screenshot(path=screenshots / "preview.png")
    assert (width, height) == (4 * 160, 160)
    assert drawn > 4 * 68, "the landmarks are drawn as green dots, more than one pixel each"
    elsewhere = [url for url in requested if not re.match(rf"{server.url}/|data:|blob:", url)]
    assert elsewhere == []


def test_the_checks_tab_shows_what_was_checked(
    server: Any, browser_page: Any, patiently: Callable[..., Any], screenshots: Path
) -> None:
    """The run of the test before has checked its shard; *Execute all* then checks every computed one."""
    page = browser_page
    names = (
        "landmarks_plausible",
        "quarantined_share",
        "rows_accounted",
        "schema_as_declared",
        "values_finite",
    )
    page.goto(f"{server.url}/assets/landmarks?view=checks&checkDetail=landmarks_plausible")
    for name in names:
        page.get_by_text(name, exact=True).first.wait_for()
    page.get_by_text("This is a non-blocking asset check.").wait_for()
    page.get_by_text("landmarks of 4 rows can be those of a face").first.wait_for()
    page.get_by_text("Passed", exact=True).first.wait_for()
    page.get_by_text(SHARD, exact=True).first.wait_for()
    page.screenshot(path=screenshots / "checks.png")

    known = server.runs()
    page.get_by_role("button", name="Execute all").click()

    def launched() -> list[str]:
        return [run for run in server.runs() if run not in known]

    [run] = patiently("launched run", launched, 60)
    patiently("end of the run", lambda: server.runs()[run] in ("SUCCESS", "FAILURE", "CANCELED"), 400)
    assert server.runs()[run] == "SUCCESS"
    query = """{ assetCheckExecutions(assetKey: {path: ["landmarks"]}, checkName: "values_finite", limit: 50)
               { runId evaluation { success description partition } } }"""
    found = server.graphql(query)["assetCheckExecutions"]
    # a run that was killed, as another test does, leaves checks that were planned and never evaluated
    found = [item for item in found if item["evaluation"]]
    [summed] = [item["evaluation"] for item in found if item["runId"] == run]
    assert summed["partition"] is None
    assert summed["success"]
    assert re.fullmatch(r"\d+ shards passed", summed["description"])
    assert SHARD in {item["evaluation"]["partition"] for item in found}


def test_it_listens_on_the_loopback_interface_only(server: Any) -> None:
    listening = {
        connection.laddr
        for process in server.processes()
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert server.port in {address.port for address in listening}


def test_the_pool_has_a_limit_of_its_own_and_nothing_is_told_to_anyone(server: Any) -> None:
    query = """{ instance { concurrencyLimits { concurrencyKey slotCount limit usingDefaultLimit }
                            daemonHealth { allDaemonStatuses { daemonType healthy } } }
                 shouldShowNux }"""
    found = server.graphql(query)
    [pool] = [item for item in found["instance"]["concurrencyLimits"] if item["concurrencyKey"] == "gpu"]
    assert (pool["limit"], pool["slotCount"], pool["usingDefaultLimit"]) == (1, 1, False)
    assert not found["shouldShowNux"], "the first-run dialog asks for an e-mail address"
    home = server.place.home
    assert (home / "history" / "runs").is_dir(), "DAGSTER_HOME is where Dagster keeps its state"
    assert not (home / ".telemetry").exists()
    assert not (home / ".nux").exists()
