from __future__ import annotations

import pytest

from infra.crypto import KeyRing, fingerprint, new_secret
from infra.errors import ConfigurationError

OLD, NEW = "o" * 32, "n" * 32


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    sealed = KeyRing((OLD,)).encrypt("a token")
    rotating = KeyRing((NEW, OLD))
    assert rotating.decrypt(sealed) == "a token"
    again = rotating.rotate(sealed)
    assert again is not None
    assert KeyRing((NEW,)).decrypt(again) == "a token"
    assert rotating.rotate(again) is None, "it is under the first key already"
    with pytest.raises(ConfigurationError, match="put the old key back"):
        KeyRing((NEW,)).decrypt(sealed)
    with pytest.raises(ConfigurationError, match="put the old key back"):
        KeyRing((NEW,)).rotate(sealed)


def test_what_is_stored_is_not_the_secret() -> None:
    assert b"a token" not in KeyRing((OLD,)).encrypt("a token")
    secret = new_secret()
    assert secret not in fingerprint(secret)


@pytest.mark.parametrize("keys", [(), ("short",), (OLD, "short")])
def test_weak_rings_are_refused_with_a_way_out(keys: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        KeyRing(keys)
    assert "token_urlsafe" in refused.value.hint


def test_each_purpose_signs_with_keys_of_its_own() -> None:
    ring = KeyRing((OLD, NEW))
    assert len({*ring.signing_keys("a"), *ring.signing_keys("b")}) == 4
