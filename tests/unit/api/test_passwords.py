"""Password hashing under gevent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

_SCRIPT = """
from gevent import monkey; monkey.patch_all()
import gevent
from api.auth import passwords

turns = 0

def count():
    global turns
    while True:
        turns += 1
        gevent.sleep(0)

counting = gevent.spawn(count)
gevent.sleep(0)
before = turns
stored = passwords.hashed("secret")
assert passwords.matches(stored, "secret") and not passwords.matches(stored, "other")
print(turns - before)
"""


def test_the_loop_turns_while_a_password_is_hashed() -> None:
    """Hashed on the loop it would not turn once: every other request of the process would wait."""
    found = subprocess.run([sys.executable, "-c", _SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 10
