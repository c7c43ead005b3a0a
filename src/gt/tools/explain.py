"""`gt explain`: the first training step of a program on shapes alone, and what the configuration makes of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gt.placement import config_file
from gt.planning.report import Report
from gt.tools import explain_page, explain_text
from gt.tools.rehearsal import rehearsing
from gt.tools.script import ScriptError, never_trained, running, shown, status_of

ZEROS = "gt explain: nothing is computed in this run: every value that the program reads from a worker is zero"


def explain(config: str, command: Sequence[str], steps: int, page: str | None) -> int:
    """Print the report; `page`: a file for it as HTML. Raises ConfigError for a wrong file, ScriptError for a program
    that did not get to the end of a step."""
    report = observe(config, command, steps)
    title = f"step {steps} of: {shown(command)}"
    if page is not None:
        Path(page).write_text(explain_page.page(report, title), encoding="utf-8")
    sys.stdout.write(explain_text.text(report, title))
    return 0


def observe(config: str, command: Sequence[str], steps: int) -> Report:
    """Run a program until its step number `steps` has ended."""
    sharding = config_file.load(config)
    print(ZEROS, file=sys.stderr, flush=True)
    with rehearsing(sharding) as (server, address):
        settings = {
            "GT_ADDRESS": address,
            "GT_CONFIG": config,
            "GT_INSPECT": f"explain:{steps}",
            "GT_INSTRUCTION_LOG": None,
        }
        with running(command, settings) as process:
            ended = os.pidfd_open(process.pid)
            try:
                server.run(lambda: True, [ended])
            finally:
                os.close(ended)
            status = status_of(process)
    report = next((one for one in server.reports if one.steps >= steps), None)
    if report is None:
        raise _unfinished(server.reports, command, steps, status)
    return report


def _unfinished(reports: Sequence[Report], command: Sequence[str], steps: int, status: int) -> ScriptError:
    refused = next((one.refused for one in reports if one.refused), "")
    if refused:
        return ScriptError(f"explain: the result of {refused} depends on values, which nothing computes here", status or 1)
    return never_trained("explain", command, steps, max((one.steps for one in reports), default=0), status)
