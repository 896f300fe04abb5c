"""The address keeps what was asked, and nothing that it says is believed."""

from __future__ import annotations

from urllib.parse import parse_qsl

from hypothesis import given
from hypothesis import strategies as st

from demo.tabs.address import LONGEST, Address

WORDS = st.text(st.characters(codec="utf-8"), max_size=80)


@given(st.builds(Address, *[WORDS] * len(Address.__dataclass_fields__)))
def test_an_address_says_again_what_was_put_into_it(address: Address) -> None:
    assert Address.read(dict(parse_qsl(str(address).removeprefix("?")))) == address


def test_what_is_none_of_ours_is_left_alone() -> None:
    assert Address.read({"__theme": "dark", "token": "x"}) == Address() and not Address()
    assert len(Address.read({"question": "x" * 10_000}).question) == LONGEST
    assert str(Address(question="a & b ?")) == "?question=a+%26+b+%3F"
