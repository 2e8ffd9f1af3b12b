"""What servers list of their models."""

import pytest

from parallamr_mp.providers.catalogue import price_of
from parallamr_mp.tariff import Price


@pytest.mark.parametrize(
    ("pricing", "price"),
    [
        ({"prompt": "0.0000025", "completion": "0.00001"}, Price(2.5, 10)),
        ({"prompt": "0", "completion": "0", "request": "0.005", "image": "1"}, Price(0, 0, request=0.005)),
        ({"prompt": 1e-6, "completion": 2e-6, "request": None}, None),
        ({"prompt": "-1", "completion": "-1"}, None),
        ({"prompt": "cheap", "completion": "1"}, None),
        ({"prompt": "nan", "completion": "1"}, None),
        ({"prompt": True, "completion": 1}, None),
        ({"prompt": 10**400, "completion": 1}, None),
        ({"prompt": "0.1"}, None),
        ("free", None),
        (None, None),
    ],
)
def test_prices_are_read_a_token_and_kept_a_million(pricing, price):
    found = price_of({"id": "m", "pricing": pricing})
    if price is None:
        assert found is None
    else:
        assert (found.input, found.output, found.request) == pytest.approx(
            (price.input, price.output, price.request)
        )
