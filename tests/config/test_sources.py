"""Sources of a config: files, presets, and invalid sources."""

import os
from pathlib import Path

import pytest

from metta.config.loading.load import load_config
from metta.config.loading.presets import find_config, find_preset, presets
from metta.config.run import RunConfig
from metta.errors import ConfigError, MettaError, UsageError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def message(source: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_config(source)
    return str(caught.value)


def test_presets_are_found_from_any_directory() -> None:
    assert load_config("quickstart").run.name == "quickstart"


def test_presets_are_the_files_of_the_repository() -> None:
    assert [preset.name for preset in presets()] == sorted(file.stem for file in (ROOT / "presets").glob("*.toml"))


@pytest.mark.parametrize("name", ["simple", "/env/mettagrid/simple", "env/mettagrid/simple", "/env/simple"])
def test_names_of_the_original_mean_presets(name: str) -> None:
    assert find_preset(name).name == "simple"
    assert find_config(name) == find_preset("simple").path


def test_a_file_where_the_original_had_a_name_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env/simple").write_text("run.seed = 5")
    assert load_config("env/simple").run.seed == 5


def test_a_bare_name_is_the_preset_and_a_path_the_file(tmp_path: Path) -> None:
    (tmp_path / "simple").write_text("run.seed = 5")
    assert load_config("simple").run.name == "simple"
    assert load_config("./simple").run.seed == 5


def test_an_empty_file_means_all_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("")
    assert load_config("empty.toml", ["run.name=metta"]) == RunConfig()


def test_a_byte_order_mark_and_windows_lines_are_fine(tmp_path: Path) -> None:
    (tmp_path / "windows.toml").write_bytes(b"\xef\xbb\xbf[run]\r\nseed = 3\r\n")
    assert load_config("windows.toml").run.seed == 3


def test_lines_are_counted_in_windows_files_too(tmp_path: Path) -> None:
    (tmp_path / "windows.toml").write_bytes(b'[run]\r\nname = """a\r\nb"""\r\nsede = 3\r\n')
    with pytest.raises(ConfigError) as caught:
        load_config("windows.toml")
    assert [(problem.key, problem.line) for problem in caught.value.problems] == [("run.name", 2), ("run.sede", 4)]


def test_misspelled_preset() -> None:
    assert message("quikstart") == 'there is no preset or file "quikstart"; did you mean the preset "quickstart"?'


def test_unknown_name() -> None:
    assert message("zzz") == f'there is no preset or file "zzz"; presets: {", ".join(p.name for p in presets())}'


def test_unknown_preset_to_show() -> None:
    with pytest.raises(UsageError, match=r'^no preset is called "simpel"; did you mean "simple"\?$'):
        find_preset("simpel")


def test_unknown_name_of_the_original() -> None:
    assert message("/env/mettagrid/simpel") == 'no preset is called "/env/mettagrid/simpel"; did you mean "simple"?'


def test_misspelled_file(tmp_path: Path) -> None:
    (tmp_path / "duel.toml").write_text("")
    assert message("deul.toml") == 'there is no file "deul.toml"; did you mean the file "duel.toml"?'


def test_a_preset_with_its_suffix() -> None:
    assert message("simple.toml") == 'there is no file "simple.toml"; did you mean the preset "simple"?'


def test_missing_directory() -> None:
    assert message("nowhere/zzz.toml") == 'there is no file "nowhere/zzz.toml"; there is no directory "nowhere"'


def test_nothing() -> None:
    assert message("").startswith('"" is not a file; give a TOML file or a preset: arena, arena_easy')


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "a/" * 3000])
def test_names_that_no_file_system_takes(name: str) -> None:
    assert message(name).startswith("there is no ")


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "some.toml").mkdir()
    assert message("some.toml") == "some.toml is a directory; name a TOML file or a preset"


def test_the_directory_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "run-1").mkdir()
    (tmp_path / "run-1/config.toml").write_text("")
    assert message("run-1") == (
        "run-1 is a directory; its settings are in run-1/config.toml; `metta resume run-1` resumes the run"
    )


def test_a_named_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert message("pipe") == "pipe is not a regular file; name a TOML file or a preset"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_not_readable(tmp_path: Path) -> None:
    (tmp_path / "secret.toml").touch(mode=0)
    assert message("secret.toml") == "secret.toml cannot be read: permission denied"


def test_reading_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens to a file one may not read, also where the tests run as root."""
    (tmp_path / "secret.toml").touch()

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert message("secret.toml") == "secret.toml cannot be read: permission denied"


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    assert message("loop.toml") == "loop.toml is a broken symbolic link"


def test_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint_000001.pt").write_bytes(b"PK\x03\x04\x00\x00archive/data.pkl")
    assert message("checkpoint_000001.pt") == (
        "checkpoint_000001.pt is not a TOML file; if it is a checkpoint, try `metta eval checkpoint_000001.pt`"
    )


def test_binary(tmp_path: Path) -> None:
    (tmp_path / "picture.toml").write_bytes(b"# not a picture\n\x89PNG\r\n\x1a\n")
    assert message("picture.toml") == "picture.toml is not a TOML file: byte 0x89 in line 2 is not UTF-8 text"


def test_utf_16(tmp_path: Path) -> None:
    (tmp_path / "wide.toml").write_bytes("[run]".encode("utf-16"))
    assert message("wide.toml") == "wide.toml is UTF-16 text; save it as UTF-8"


def test_too_large(tmp_path: Path) -> None:
    with (tmp_path / "huge.toml").open("wb") as file:
        file.truncate(10**10)  # sparse: takes no space, and must not be read
    assert message("huge.toml") == "huge.toml has 10000000000 bytes; the limit is 1048576"


BOMBS = {
    "a long line": ("a" * 20_000 + " = 1", "has 20004 characters; the limit is 10000; split the line"),
    "a deep list": ("a = " + "[" * 4900 + "]" * 4900, "is nested too deeply; the limit is 16 tables and lists"),
    "a deep table": (
        "a = " + "{a = " * 1500 + "1" + "}" * 1500,
        "is nested too deeply; the limit is 16 tables and lists",
    ),
    "a deep key": (".".join("a" * 4900) + " = 1", "is nested too deeply; the limit is 16 tables and lists"),
    "deep headers": ("\n".join(f"[{'.'.join(f'a{i}' * 900)}]" for i in range(3)), "is nested too deeply"),
    "a long number": ("a = " + "9" * 9000, "has a number with too many digits"),
    "zero bytes": ("a = 1\0", "is not TOML at column 6: "),
}


@pytest.mark.parametrize(("text", "expected"), BOMBS.values(), ids=BOMBS.keys())
def test_hostile_texts_are_refused(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "bomb.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config("bomb.toml")
    assert expected in str(caught.value)


def test_long_lists_of_problems_are_cut(tmp_path: Path) -> None:
    (tmp_path / "noise.toml").write_text("".join(f"key{number} = {number}\n" for number in range(30_000)))
    with pytest.raises(ConfigError) as caught:
        load_config("noise.toml")
    lines = str(caught.value).splitlines()
    assert lines[0] == "noise.toml has 1000 problems"
    assert lines[-1] == "  and 950 more"
    assert len(lines) == 52


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "esc.toml").write_text('"\\u001b[2J" = 1\n[run]\nname = "\\u009b31m"\ndevice = "\\u202e"\n')
    with pytest.raises(ConfigError) as caught:
        load_config("esc.toml")
    assert all(character.isprintable() or character == "\n" for character in str(caught.value))


def test_errors_know_their_exit_code() -> None:
    with pytest.raises(MettaError) as caught:
        load_config("nowhere.toml")
    assert caught.value.exit_code == 2
