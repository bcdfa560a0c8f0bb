"""`medsam3 doctor`: one line per check, with a remedy if needed."""

from pathlib import Path

from rich.text import Text

from flows.messages.console import say
from flows.messages.tables import stdout_console
from flows.service.checks import Grade, all_findings

_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def run_doctor(store_root: Path) -> int:
    """Run all checks and print their findings; exit code 0, or 1 if one failed."""
    console = stdout_console()
    failed = 0
    for finding in all_findings(store_root):
        failed += finding.grade is Grade.FAILED
        line = Text(f"{finding.grade:<8}", style=_STYLES[finding.grade])
        line.append(f" {finding.name:<10} {finding.facts}", style="default")
        console.print(line, soft_wrap=True)
        if finding.remedy:
            console.print(Text(f"{'':20}{finding.remedy}"), soft_wrap=True)
    if failed:
        say(f"{failed} check{'s' if failed > 1 else ''} failed")
    return int(failed > 0)
