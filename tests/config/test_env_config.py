"""EnvConfig: inferred sizes, object types, actions, the environment spec, settings of groups, overrides."""

import pytest
from pydantic import ValidationError

from metta.config.env.env_config import EnvConfig
from metta.config.env.game import GameConfig
from metta.config.env.map_builder import MapBuilderConfig, RoomsConfig
from metta.config.env.map_generators import MazeConfig
from metta.config.env.objects import CATALOG, ActionConfig, ObjectConfig
from metta.errors import ConfigError


def env(**tables: object) -> EnvConfig:
    return EnvConfig.model_validate(tables)


class TestSizes:
    def test_a_map_takes_the_sizes_of_the_game(self) -> None:
        config = EnvConfig(game=GameConfig(width=20, height=10, num_agents=4))
        builder = config.map_builder
        assert isinstance(builder, MapBuilderConfig)
        assert (builder.width, builder.height, builder.agents) == (20, 10, 4)

    def test_a_map_may_repeat_the_sizes_of_the_game(self) -> None:
        builder = MapBuilderConfig(width=20, height=10, agents=4)
        assert EnvConfig(game=GameConfig(width=20, height=10, num_agents=4), map_builder=builder).map_builder == builder

    def test_a_game_takes_the_sizes_of_its_rooms(self) -> None:
        room = MapBuilderConfig(width=5, height=7, agents=2)
        rooms = RoomsConfig(type="Rooms", rows=2, cols=3, border_width=2, room=room)
        config = EnvConfig(map_builder=rooms)
        # 3 x 5 + 4 x 2 columns, 2 x 7 + 3 x 2 rows
        assert (config.game.width, config.game.height, config.game.num_agents) == (23, 20, 12)

    def test_a_room_has_no_border_of_its_own_unless_it_sets_one(self) -> None:
        assert RoomsConfig(type="Rooms", room=MapBuilderConfig(width=5)).room.border_width == 0
        assert RoomsConfig(type="Rooms", room=MapBuilderConfig(border_width=2)).room.border_width == 2

    def test_rooms_share_the_games_agents(self) -> None:
        config = EnvConfig(game=GameConfig(num_agents=8), map_builder=RoomsConfig(type="Rooms"))
        assert isinstance(config.map_builder, RoomsConfig)
        assert config.map_builder.room.agents == 2

    def test_a_game_takes_the_sizes_of_a_drawn_map(self) -> None:
        config = env(map_builder={"type": "Ascii", "map": "\n#####\n#@.@#\n#####\n"})
        assert (config.game.width, config.game.height, config.game.num_agents) == (5, 3, 2)

    def test_inferred_sizes_do_not_count_as_set(self) -> None:
        config = EnvConfig(game=GameConfig(num_agents=4))
        assert not config.map_builder.is_set("agents")
        assert config.override(num_agents=6).map_builder == MapBuilderConfig(agents=6)


class TestObjectTypes:
    def test_the_catalog_is_the_default(self) -> None:
        rock = ObjectConfig(type="wall", name="rock")
        assert list(EnvConfig(objects=[rock]).object_types) == [*CATALOG, "rock"]

    def test_unset_values_come_from_the_catalog(self) -> None:
        altar = EnvConfig(objects=[ObjectConfig(type="converter", name="altar", cooldown=3)]).object_types["altar"]
        assert (altar.cooldown, altar.input, altar.type_id) == (3, {"battery_red": 3}, 8)

    def test_an_entry_of_another_type_takes_nothing_from_the_catalog(self) -> None:
        altar = EnvConfig(objects=[ObjectConfig(type="wall", name="altar")]).object_types["altar"]
        assert (altar.type_id, altar.input, altar.output, altar.initial_items) == (15, {}, {}, 0)

    def test_free_type_ids_are_assigned_in_order(self) -> None:
        names = ["a", "b", "c"]
        objects = [ObjectConfig(type="wall", name=name, type_id=16 if name == "b" else None) for name in names]
        types = EnvConfig(objects=objects).object_types
        assert [types[name].type_id for name in names] == [15, 16, 17]

    def test_there_are_type_ids_for_as_many_objects_as_there_can_be(self) -> None:
        objects = [ObjectConfig(type="wall", name=f"o{number}") for number in range(240)]
        types = EnvConfig(objects=objects).object_types
        assert len({entry.type_id for entry in types.values()}) == 254

    def test_a_new_object_has_general_defaults(self) -> None:
        well = EnvConfig(objects=[ObjectConfig(type="mine", name="well", output={"ore_red": 1})]).object_types["well"]
        assert (well.max_output, well.conversion_ticks, well.cooldown, well.initial_items) == (5, 1, 10, 1)


class TestSpec:
    def test_actions_and_their_pairs(self) -> None:
        spec = EnvConfig().spec
        assert spec.action_names == [
            "noop",
            "move",
            "rotate",
            "put_recipe_items",
            "get_output",
            "attack",
            "attack_nearest",
            "swap",
            "change_color",
        ]
        assert spec.max_action_args == [0, 1, 3, 0, 0, 9, 0, 0, 3]
        assert len(spec.flat_actions) == 1 + 2 + 4 + 1 + 1 + 10 + 1 + 1 + 4

    def test_a_rotation_by_quarter_turns_takes_no_argument(self) -> None:
        spec = EnvConfig(actions=[ActionConfig(type="rotate", key="right", delta=1)]).spec
        assert spec.flat_actions == [(0, 0)]

    def test_an_action_that_cannot_succeed_keeps_its_id_but_is_not_sampled(self) -> None:
        actions = [
            ActionConfig(type="noop", key="wait", enabled=False),
            ActionConfig(type="attack", key="attack", consumed_resources={"laser": 1}),
            ActionConfig(type="move", key="move"),
        ]
        game = GameConfig(inventory_item_names=["ore_red", "battery_red", "heart", "laser"])
        assert EnvConfig(game=game, actions=actions).spec.action_enabled == [False, True, True, True]
        unarmed = env(game={"inventory_item_names": ["ore_red", "battery_red", "heart"]})
        enabled = dict(zip(unarmed.spec.action_names, unarmed.spec.action_enabled, strict=True))
        assert [name for name, is_enabled in enabled.items() if not is_enabled] == ["attack", "attack_nearest"]

    def test_features_of_items_follow_the_others(self) -> None:
        spec = EnvConfig(game=GameConfig(inventory_item_names=["heart", "ore_red", "battery_red"])).spec
        assert spec.feature_names[12:] == ["inv:heart", "inv:ore_red", "inv:battery_red"]
        assert spec.feature_scales[12:] == [100.0] * 3
        assert spec.feature_names[8:12] == ["episode_completion_pct", "last_action", "last_action_arg", "last_reward"]

    def test_names_of_types_by_id(self) -> None:
        names = EnvConfig(objects=[ObjectConfig(type="wall", name="rock", type_id=20)]).spec.object_type_names
        assert (names[0], names[8], names[15:]) == ("agent", "altar", ["", "", "", "", "", "rock"])

    def test_the_center(self) -> None:
        assert EnvConfig(game=GameConfig(observation_width=7, observation_height=11)).spec.center == 5 << 4 | 3


class TestGroups:
    def test_props_replace_the_games_settings_one_by_one(self) -> None:
        game = env(
            game={
                "heart_max": 9,
                "item_max": {"laser": 2, "armor": 1},
                "groups": {
                    "red": {"id": 0, "props": {"freeze_duration": 3, "item_max": {"laser": 5}}},
                    "blue": {"id": 1},
                },
            }
        ).game
        red, blue = game.group_settings("red"), game.group_settings("blue")
        assert (red.freeze_duration, red.heart_max, red.item_max) == (3, 9, {"laser": 5})
        assert (blue.freeze_duration, blue.heart_max, blue.item_max) == (10, 9, {"laser": 2, "armor": 1})

    def test_caps_and_rewards_by_item(self) -> None:
        game = GameConfig(
            default_item_max=7,
            heart_max=3,
            item_max={"laser": 1},
            item_rewards={"laser": 0.5},
            item_reward_max={"laser": 2},
        )
        items = ["heart", "laser", "armor", "ore_red", "battery_red"]
        assert [game.item_cap(item) for item in items] == [3, 1, 7, 7, 7]
        assert [game.item_reward(item) for item in items] == [1.0, 0.5, 0.0, 0.01, 0.02]
        assert [game.item_reward_cap(item) for item in items] == [1000.0, 2.0, 1000.0, 10.0, 10.0]


class TestOverride:
    def test_keys_are_searched_in_all_tables(self) -> None:
        config = EnvConfig().override(num_agents=8, width=16, height=16, border_width=1, objects=[])
        assert (config.game.num_agents, config.game.width, config.map_builder.border_width) == (8, 16, 1)

    def test_the_original_is_unchanged(self) -> None:
        config = EnvConfig()
        config.override(num_agents=8)
        assert config == EnvConfig()

    def test_what_was_set_stays_set(self) -> None:
        config = env(game={"heart_reward": 3.0}, map_builder={"objects": {"altar": 2}}).override(num_agents=2)
        assert (config.game.heart_reward, config.map_builder.model_dump()["objects"]) == (3.0, {"altar": 2})

    def test_tables_replace_their_own_keys(self) -> None:
        config = env(game={"heart_reward": 3.0, "max_steps": 7}).override(game={"max_steps": 9}, num_agents=2)
        assert (config.game.heart_reward, config.game.max_steps, config.game.num_agents) == (3.0, 9, 2)

    def test_config_objects_replace_a_table(self) -> None:
        config = env(game={"heart_reward": 3.0}).override(num_agents=2, game=GameConfig(max_steps=9))
        assert config.game == GameConfig(max_steps=9, num_agents=2)
        maze = MazeConfig(type="Maze", width=15, height=15, agents=2)
        replaced = env(map_builder={"objects": {"altar": 2}}).override(
            loops=0.5, map_builder=maze, num_agents=2, width=15, height=15
        )
        assert replaced.map_builder.model_dump() == maze.model_dump() | {"loops": 0.5}
        typed = env(map_builder={"objects": {"altar": 2}}).override(map_builder={"type": "Maze"}).map_builder
        assert isinstance(typed, MazeConfig)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"num_agent": 8}, 'num_agent  unknown setting; did you mean "num_agents"?'),
            ({"num_agents": "8"}, 'game.num_agents  must be an integer; got "8"; leave out the quotes'),
            (
                {"observation_width": 10},
                "game.observation_width  must be odd, so that the agent is in the middle; got 10",
            ),
            ({"width": 3, "height": 3, "num_agents": 2}, "map_builder.border_width  must leave cells inside"),
        ],
    )
    def test_invalid_overrides_are_refused(self, values: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            EnvConfig().override(**values)
        assert str(caught.value).startswith("the environment override has 1 problem\n")
        assert message in str(caught.value)


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        GameConfig().width = 3  # type: ignore[misc]  # that it is refused is the point


def test_values_are_not_converted_in_python_either() -> None:
    with pytest.raises(ValidationError):
        GameConfig(width="3")  # type: ignore[arg-type]  # that it is refused is the point
