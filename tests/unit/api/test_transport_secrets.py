"""What the client says of an address or a token never shows a secret."""

from __future__ import annotations

import pytest

from api.client.client import Client, Unreachable
from api.client.transport import ClientError, InvalidTokenError, without_credentials


@pytest.mark.parametrize("token", ["s3cret\n", "s3 cret", "s3cret\x00", "s3crët"])
def test_a_token_that_cannot_be_sent_is_not_shown(token: str) -> None:
    with pytest.raises(InvalidTokenError) as refused:
        Client("http://127.0.0.1:9", token)
    assert token.strip() not in str(refused.value)
    assert isinstance(refused.value, ClientError)


@pytest.mark.parametrize(
    "url", ["http://ann:s3cret@127.0.0.1:9", "http://ann:s3cret@[", "ftp://ann:s3cret@host"]
)
def test_a_password_in_the_address_is_not_shown(url: str) -> None:
    with pytest.raises(Unreachable) as refused, Client(url, patience=0) as client:
        client.get("a-23456789")
    assert "s3cret" not in str(refused.value)
    assert "s3cret" not in refused.value.url


def test_an_address_without_a_secret_is_shown_whole() -> None:
    assert without_credentials("http://head:8080/at?x=1") == "http://head:8080/at?***"
    assert without_credentials("http://head:8080/a@b") == "http://head:8080/a@b"
