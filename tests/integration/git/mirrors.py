"""Short words for what tests of mirrors do again and again."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from infra.settings import Settings
from workers.git.errors import GitError
from workers.git.mirror import Mirror, MirrorStore
from workers.git.remote import Credentials


def failing(store: MirrorStore, url: str, credentials: Credentials | None, **more: Any) -> GitError:
    with pytest.raises(GitError) as caught:
        store.refresh(uuid4(), url, credentials, **more)
    assert caught.value.message
    assert caught.value.hint
    return caught.value


def with_settings(settings: Settings, **changes: Any) -> MirrorStore:
    changed = settings.model_copy(update=changes)
    return MirrorStore(changed.run_dir, changed)


def packs(mirror: Mirror) -> list[Path]:
    return sorted((mirror.path / "objects" / "pack").glob("*.pack"))
