import re

import pytest
from tests import domain

from seedtalk.errors import InputError
from seedtalk.teacher.prices import Price, price_of, read_table

TABLE = """
small:
  input: 0.15
  output: 0.60
  cached_input: 0.075
  batch_factor: 0.5
  as_of: 2026-01-02
  source: the vendor
dear-2024-05-13: {input: 5, output: 15}
open/model: {input: 0.1, output: 0.2, host: api.hosted.example}
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text(TABLE)
    return path


def teacher(model="small", **values):
    return domain.params(teacher={"backend": "openai", "model": model} | values).teacher


def test_a_model_is_found_with_all_its_prices(table):
    assert price_of(teacher(), table) == Price(
        0.15, 0.6, 0.075, 0.5, f"{table}, small, as of 2026-01-02"
    )


@pytest.mark.parametrize(
    ("model", "listed"),
    [
        ("small-2024-07-18", 0.15),  # a snapshot
        ("small-20240718", 0.15),
        ("dear-2024-05-13", 5.0),  # a snapshot with a price of its own
        ("dear", None),
        ("dear-2024-08-06", None),
        ("small-0125", None),  # may be anything
        ("small-mini", None),
        ("Small", None),
        ("ft:small-2024-07-18:me", None),  # fine-tuned models cost more
    ],
)
def test_a_dated_snapshot_is_its_model_and_nothing_else_is(table, model, listed):
    price = price_of(teacher(model), table)
    assert (price and price.input) == listed


@pytest.mark.parametrize(
    ("url", "known"),
    [
        ("https://api.hosted.example/v1", True),
        ("https://api.hosted.example:8443/v1", True),
        ("https://other.example/v1", False),
        ("http://127.0.0.1:8000/v1", False),
        ("", False),
    ],
)
def test_a_price_of_one_host_is_not_that_of_another(table, url, known):
    assert (price_of(teacher("open/model", base_url=url), table) is not None) is known


def test_the_users_own_price_wins_and_the_table_is_not_read(tmp_path):
    own = {"usd_per_million_input": 0.0, "usd_per_million_output": 1.5}
    price = price_of(teacher(**own), tmp_path / "nowhere.yaml")
    assert (price.input, price.output, price.cached_input, price.batch_factor) == (0, 1.5, None, 1)


@pytest.mark.parametrize("given", ["usd_per_million_input", "usd_per_million_output"])
def test_one_price_without_the_other_is_an_error(table, given):
    with pytest.raises(InputError, match="set both or neither"):
        price_of(teacher(**{given: 1.0}), table)


@pytest.mark.parametrize("backend", ["openai", "batch"])
def test_an_unknown_price_under_a_cap_is_an_error_that_says_what_to_set(table, backend):
    with pytest.raises(InputError, match=re.escape("price of 'local' is unknown; set")) as raised:
        price_of(teacher("local", backend=backend, max_usd=1.0), table)
    for way in ("teacher.usd_per_million_input", "0 and 0", str(table)):
        assert way in raised.value.message


def test_an_unknown_price_is_none_where_nothing_is_capped_or_spent(table):
    assert price_of(teacher("local", base_url="http://localhost:8000/v1"), table) is None
    assert price_of(teacher("local", backend="replay", max_usd=1.0), table) is None
    assert price_of(teacher("local", max_calls=5), table) is None


def test_a_local_endpoint_is_free_where_the_user_says_so(table):
    free = {"usd_per_million_input": 0.0, "usd_per_million_output": 0.0, "max_usd": 1.0}
    price = price_of(teacher("local", base_url="http://[::1]:1/v1", **free), table)
    assert (price.input, price.output) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "expected models and their prices, found list"),
        ("a: {input: 1", "not valid YAML"),
        ("a: {input: 1}", "model 'a', field 'output': missing; both"),
        ("a: {input: 1, output: -2}", "model 'a', field 'output': .*greater than or equal to 0"),
        ("a: {input: 1, output: .inf}", "model 'a', field 'output': .*finite"),
        ("a: {input: .nan, output: 1}", "model 'a', field 'input': "),
        ("a: {input: cheap, output: 1}", "model 'a', field 'input': .*got 'cheap'"),
        ("a: {input: 1, output: 1, outptu: 2}", "field 'outptu': unknown field; known are input"),
        ("a: {input: 1, output: 1, batch_factor: 0}", "field 'batch_factor'"),
        ("a: {input: 1, output: 1, batch_factor: 2}", "field 'batch_factor'"),
        ("a: {input: 1, output: 1, as_of: soon}", "field 'as_of'"),
        ("a: 3", "model 'a': expected the fields input, output"),
        ("4: {input: 1, output: 1}", "a model's name is a text; put it in quotes"),
        ("a: {input: 1, output: 1}\na: {input: 2, output: 2}", "'a' is there twice"),
        ("a: {input: 1, input: 2, output: 2}", "'input' is there twice"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_a_wrong_table_names_file_model_and_field(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        price_of(teacher(), path)
    assert raised.value.message.startswith(str(path))


def test_a_table_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(InputError, match=r"gone\.yaml: cannot be read .*teacher\.prices"):
        price_of(teacher(), tmp_path / "gone.yaml")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(InputError, match=r"x\.yaml: not valid YAML"):
        price_of(teacher(), tmp_path / "x.yaml")


def test_an_empty_table_lists_nothing(tmp_path):
    (tmp_path / "x.yaml").write_text("# nothing yet\n")
    assert read_table(tmp_path / "x.yaml") == {}


def test_the_projects_own_table_says_when_and_where_from():
    table = read_table(domain.ROOT / "prices.yaml")
    assert {"gpt-4o-mini", "gpt-4.1-mini"} <= set(table)
    for name, entry in table.items():
        assert entry.as_of and entry.source, name
        assert 0 < entry.input <= entry.output, name
        assert entry.cached_input is None or 0 < entry.cached_input < entry.input, name
