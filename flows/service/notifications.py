"""Notifications by a command or a webhook from the settings; off by default."""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from flows.messages.console import tell
from flows.settings.settings import NotifySettings


def notify(settings: NotifySettings, message: Mapping[str, Any]) -> list[str]:
    """Hand a message to the command and to the webhook that are set.

    Failures are returned, not raised: a failing hook must not fail a benchmark.

    Args:
        settings: Command and webhook.
        message: JSON object; `kind` is the topic, `text` is for people.

    Returns:
        One sentence per hook that failed.
    """
    body = json.dumps(dict(message), sort_keys=True).encode()
    troubles = []
    if settings.command and (trouble := _run(settings, body)):
        troubles.append(f"notification command {settings.command[0]} {trouble}")
    if settings.webhook and (trouble := _post(settings, body)):
        troubles.append(f"notification webhook {settings.webhook} {trouble}")
    return troubles


def notify_and_log(settings: NotifySettings, message: Mapping[str, Any]) -> None:
    """Hand a message to the hooks that are set; log a warning for each that failed."""
    for trouble in notify(settings, message):
        tell(trouble, alarming=True)


def _run(settings: NotifySettings, body: bytes) -> str:
    try:
        ended = subprocess.run(
            settings.command, input=body, capture_output=True, timeout=settings.timeout_seconds, check=False
        )
    except OSError as error:
        return f"cannot be started: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"did not end within {settings.timeout_seconds:g} s"
    if ended.returncode:
        last = ended.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        return f"ended with code {ended.returncode}: {last[0]}"
    return ""


def _post(settings: NotifySettings, body: bytes) -> str:
    request = urllib.request.Request(settings.webhook, body, {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=settings.timeout_seconds):
            return ""
    except urllib.error.HTTPError as error:
        return f"answered {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return f"cannot be reached: {getattr(error, 'reason', None) or error}"
