"""Secrets at rest, and keys derived from the ring.

`FARHAND_SECRET_KEYS` is a ring: the first key encrypts, every key decrypts, so that a key is rotated by putting a
new one in front. A ring entry is any string of at least 32 characters; the Fernet key is derived from it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from infra.errors import ConfigurationError
from infra.settings import Settings

MIN_KEY_CHARS = 32


class KeyRing:
    """Encrypts and decrypts secrets, and derives one signing key per purpose and ring entry."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        if not keys or any(len(key) < MIN_KEY_CHARS for key in keys):
            raise ConfigurationError(
                "FARHAND_SECRET_KEYS needs at least one key of 32 characters or more",
                hint="Make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'",
            )
        self._keys = keys
        fernets = [Fernet(base64.urlsafe_b64encode(_derive(key, "at-rest"))) for key in keys]
        self._first, self._fernet = fernets[0], MultiFernet(fernets)

    @classmethod
    def from_settings(cls, settings: Settings) -> KeyRing:
        return cls(tuple(key.get_secret_value() for key in settings.secret_keys))

    def encrypt(self, secret: str) -> bytes:
        return self._fernet.encrypt(secret.encode())

    def decrypt(self, sealed: bytes) -> str:
        """Raises ConfigurationError when no key of the ring opens it (a key was taken off too early)."""
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken:
            raise ConfigurationError(
                "no key of FARHAND_SECRET_KEYS opens a stored secret: put the old key back"
            ) from None

    @property
    def has_old_keys(self) -> bool:
        """A secret may be under another key than the first."""
        return len(self._keys) > 1

    def rotate(self, sealed: bytes) -> bytes | None:
        """The same secret under the first key of the ring, None when it is already. Raises as `decrypt` does."""
        try:
            self._first.decrypt(sealed)
        except InvalidToken:
            return self.encrypt(self.decrypt(sealed))
        return None

    def signing_keys(self, purpose: str) -> tuple[bytes, ...]:
        """One 32-byte key per ring entry, first signs, all verify; distinct for each purpose."""
        return tuple(_derive(key, purpose) for key in self._keys)


def new_secret() -> str:
    """256 random bits as text, for tokens and tickets."""
    return secrets.token_urlsafe(32)


def fingerprint(secret: str) -> str:
    """SHA-256 of a high-entropy secret: what is stored of a token. (Passwords go through argon2 instead.)"""
    return hashlib.sha256(secret.encode()).hexdigest()


def same(left: str, right: str) -> bool:
    """Equality in constant time."""
    return hmac.compare_digest(left.encode(), right.encode())


def _derive(key: str, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"farhand:{purpose}".encode()).derive(key.encode())
