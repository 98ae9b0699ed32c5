"""A plugin for `.ci/run` (`-p tests.skips`): a skipped test is an error unless it is listed here."""

from __future__ import annotations

import pytest

MAY_BE_SKIPPED = {
    "tests/gallery/test_full_disk.py::test_a_full_disk_loses_nothing": "it mounts a small disk",
    "tests/retrieval/test_ranking.py::test_agrees_with_torchreid": "a file of that project has to be named",
}


def _unlisted(config: pytest.Config) -> dict[str, str]:
    """Return the reasons of the skipped tests that are not listed, by their names."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # in a worker
        return {}
    skipped = {report.nodeid: str(report.longrepr[2]) for report in reporter.stats.get("skipped", ())}
    return {test: why for test, why in skipped.items() if test.partition("[")[0] not in MAY_BE_SKIPPED}


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus == pytest.ExitCode.OK and _unlisted(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for test, why in _unlisted(config).items():
        terminalreporter.write_line(f"{test} must not be skipped: {why}", red=True)
