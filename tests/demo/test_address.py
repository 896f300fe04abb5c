"""The address keeps what was asked, and nothing that it says is believed."""

from __future__ import annotations

from urllib.parse import parse_qsl

from hypothesis import given, settings
from hypothesis import strategies as st

from demo.host import Host, Settings
from demo.tabs.address import LONGEST, Address

WORDS = st.text(st.characters(codec="utf-8"), max_size=80)


@settings(deadline=None)
@given(st.builds(Address, *[WORDS] * len(Address.__dataclass_fields__)))
def test_an_address_says_again_what_was_put_into_it(address: Address) -> None:
    assert Address.read(dict(parse_qsl(str(address).removeprefix("?")))) == address


def test_what_is_none_of_ours_is_left_alone() -> None:
    assert Address.read({"__theme": "dark", "token": "x"}) == Address() and not Address()
    assert len(Address.read({"question": "x" * 10_000}).question) == LONGEST
    assert str(Address(question="a & b ?")) == "?question=a+%26+b+%3F"


@settings(max_examples=50, deadline=None)
@given(st.builds(Address, *[WORDS | st.sampled_from(["nan", "1e9", "-1", "0.3", "64.400", "65"])] * 8))
def test_whatever_it_says_the_terms_can_be_kept(host: Host, address: Address) -> None:
    wrong: list[str] = []
    terms = address.settings(host, wrong)
    assert terms.policy in host.policies() and terms.realizer in host.realizers()
    assert set(terms.budgets) <= set(host.budgets)
    assert all(value is None or 0 <= value <= 1 for value in (terms.price, terms.limit))
    for name in ("price", "limit"):
        said, kept = getattr(address, name), getattr(terms, name)
        assert (kept is None) == (not said or any(repr(said) in line for line in wrong if line.startswith(name)))


def test_terms_come_back_from_their_address(host: Host) -> None:
    for terms in (
        Settings(policy="uniform-128"), Settings(price=0.25), Settings(limit=0.3, budgets=(64, 400)),
        Settings(policy="heuristic", realizer="rescale"),
    ):  # fmt: skip
        address = Address.of("", "signs 1", "q ?", terms, host)
        assert address.settings(host, wrong := []) == terms and not wrong
