"""schemathesis against the document that the API gives of itself: no 5xx, nothing undocumented, what the
document allows is taken, and what it forbids is refused."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import trio

from tests.node.api.stand_in import Api, running

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
EXAMPLES = 700 if SOAK else 8  # for each operation; 10,000 cases and more in a soak
CASES = 10_000 if SOAK else 500
PASS = 0.8  # of all cases, beyond authentication and limits
PROGRAM = "from schemathesis.cli import schemathesis; schemathesis()"


@pytest.mark.timeout(3600 if SOAK else 300)
async def test_the_document_is_true(tmp_path: Path) -> None:
    async with running(tmp_path, reads_per_minute=10**9, writes_per_minute=10**9) as api:
        ended = await _run(api, tmp_path)
    report = json.loads(await trio.Path(tmp_path / "report.json").read_text())
    said = ended.stdout.decode(errors="replace")
    assert ended.returncode == 0, said[-20_000:]
    assert report["operations"]["tested"] == 16
    har = json.loads(await trio.Path(tmp_path / "report.har").read_text())
    statuses = Counter(entry["response"]["status"] for entry in har["log"]["entries"])
    print(f"{report['test_cases']['generated']} cases: {dict(sorted(statuses.items()))}")
    assert report["test_cases"]["generated"] >= CASES
    passed = statuses.total() - statuses[401] - statuses[429]
    assert passed >= PASS * statuses.total()
    assert statuses[200] >= 0.1 * statuses.total()


async def _run(api: Api, folder: Path) -> trio.subprocess.CompletedProcess[bytes]:  # type: ignore[name-defined]
    here = Path(__file__).parent
    return await trio.run_process(
        [
            *(sys.executable, "-c", PROGRAM),
            *("run", f"http://127.0.0.1:{api.address[1]}/api/openapi.json"),
            *("-H", f"Authorization: Bearer {api.write}"),
            *("--checks", "all", "--continue-on-failure", "--seed", "1", "-n", str(EXAMPLES)),
            *("--suppress-health-check", "all", "--report", "json,har"),
            *("--report-json-path", "report.json", "--report-har-path", "report.har"),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(here), "SCHEMATHESIS_HOOKS": "schemathesis_hooks"},
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
