"""Dumping a config as TOML and loading it again gives an equal config."""

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metta.config.loading.load import dump_config, parse_config
from metta.config.run import RunConfig

names = st.text(string.ascii_letters + string.digits + "_-.", min_size=1, max_size=20).filter(lambda n: n[0].isalnum())
paths = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).filter(lambda path: path[:1] != "~")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
amounts = st.integers(0, 255)
rewards = st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def run_tables(draw: st.DrawFn) -> dict[str, Any]:
    items = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    item = st.sampled_from(items).filter(lambda name: name not in ("ore_red", "battery_red", "heart"))
    per_item = st.dictionaries(item, amounts, max_size=3) if set(items) - {"ore_red"} else st.just({})
    groups = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    props = st.fixed_dictionaries(
        {},
        optional={"default_item_max": amounts, "freeze_duration": st.integers(-1, 255), "item_max": per_item},
    )
    return {
        "run": {"name": draw(names), "run_dir": draw(paths), "seed": draw(st.integers(0, 2**63 - 1))},
        "env": {
            "game": {
                "inventory_item_names": items,
                "item_max": draw(per_item),
                "time_punishment": draw(rewards),
                "action_failure_penalty": draw(rewards),
                "groups": {
                    name: {"id": index, "props": draw(props), "group_reward_pct": draw(st.floats(0, 1))}
                    for index, name in enumerate(groups)
                },
                "reward_sharing_groups": {draw(st.sampled_from(groups)): {draw(st.sampled_from(groups)): 0.25}},
            },
            "map_builder": {"objects": {"wall": draw(st.integers(0, 9))}},
        },
        "optimizer": {"eps": draw(st.floats(0, 1)), "learning_rate": draw(st.floats(1e-9, 1))},
        "ppo": draw(st.sampled_from([{}, {"target_kl": 0.01}])),
        "curriculum": {"scenes": draw(st.lists(texts, max_size=3))},
        "checkpoint": {"checkpoint_dir": draw(paths)},
    }


@given(run_tables())
def test_any_config_comes_back(data: dict[str, Any]) -> None:
    config = RunConfig.model_validate(data)
    text = dump_config(config)
    again = parse_config(text, "config.toml")
    assert again == config
    assert dump_config(again) == text
    for group in config.env.game.groups:
        assert again.env.game.group_settings(group) == config.env.game.group_settings(group)


rates = st.floats(0.01, 1)
numbers = st.one_of(st.integers(1, 9), st.floats(0.5, 9))
buckets = st.one_of(
    st.fixed_dictionaries({"values": st.lists(numbers, min_size=1, max_size=4, unique_by=repr)}),
    st.fixed_dictionaries({"range": st.tuples(numbers, numbers).map(sorted)}, optional={"bins": st.integers(1, 5)}),
)
CURRICULA: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "fixed": st.just({}),
    "low_reward": st.fixed_dictionaries({}, optional={"average_rate": rates, "exploration": rates}),
    "learning_progress": st.fixed_dictionaries(
        {}, optional={"slow_rate": st.just(0.005), "success_reward": numbers, "min_episodes": st.integers(1, 9)}
    ),
    "progressive": st.one_of(
        st.fixed_dictionaries({"thresholds": st.lists(numbers, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"agent_steps": st.integers(1, 10**6)}, optional={"earlier_share": rates}),
    ),
}


@pytest.mark.parametrize("kind", CURRICULA)
@given(st.data())
def test_any_curriculum_comes_back(kind: str, data: st.DataObject) -> None:
    """As TOML and as the values that a trainer state holds: what is written in full is valid input."""
    settings = st.dictionaries(st.sampled_from(["game.max_steps", "game.time_punishment"]), buckets, max_size=2)
    table = {"type": kind, "buckets": data.draw(settings)} | data.draw(CURRICULA[kind])
    config = RunConfig.model_validate({"curriculum": table})
    assert parse_config(dump_config(config), "config.toml") == config
    values = config.curriculum.model_dump(exclude_none=True)
    assert RunConfig.model_validate({"curriculum": values}) == config


DRAWN = r"""
#######
#@.r"\#
#.'''R#
#_...@#
#######
"""


@pytest.mark.parametrize("name", ["plain", "with a carriage return"])
def test_a_drawn_map_comes_back_and_can_be_read(name: str) -> None:
    legend = {'"': "wall", "\\": "block", "'": "altar"} | ({"\r": "wall"} if name != "plain" else {})
    drawing = DRAWN if name == "plain" else DRAWN.replace("@#\n", "@\r\n")
    config = RunConfig.model_validate(
        {"env": {"map_builder": {"type": "Ascii", "map": drawing, "legend": legend}}, "run": {"seed": 3}}
    )
    text = dump_config(config)
    assert parse_config(text, "config.toml") == config
    assert ("\n#@.r" in text) == (name == "plain")


def test_inferred_sizes_are_dumped() -> None:
    """A dump says every size, also those that follow from others, and is still without contradiction."""
    text = '[env.map_builder]\ntype = "Rooms"\nroom = { width = 7, height = 9, agents = 2 }\n'
    config = parse_config(text, "rooms.toml")
    assert (config.env.game.width, config.env.game.height, config.env.game.num_agents) == (17, 21, 8)
    again = parse_config(dump_config(config), "config.toml")
    assert again == config


def test_unset_values_of_a_group_stay_unset() -> None:
    text = "[env.game]\nheart_max = 9\ngroups.red = { id = 0, props = { freeze_duration = 3 } }\n"
    again = parse_config(dump_config(parse_config(text, "a.toml")), "config.toml", ["env.game.heart_max=7"])
    settings = again.env.game.group_settings("red")
    assert (settings.heart_max, settings.freeze_duration) == (7, 3)
