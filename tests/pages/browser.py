"""A page as headless Chromium sees it, once its script has run."""

import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)")
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")


def seen(page: Path, profile: Path, *, place: str = "", dark: bool = False, width: int = 1200) -> str:
    """The document of `page` at #`place`, as its script leaves it."""
    assert CHROMIUM is not None
    mode = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0") if dark else ()
    command = [
        *(CHROMIUM, *_FLAGS, *mode, f"--user-data-dir={profile}", f"--window-size={width},1000"),
        *("--virtual-time-budget=2000", "--dump-dom", page.as_uri() + (f"#{place}" if place else "")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
