"""Settings: one frozen object, every violation at once, the environment wins over the file."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.config import load_config
from pipelines.errors import InputError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cascadeguard.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_file_overrides_the_defaults_and_the_environment_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "seed = 3\n[detector]\nreference_h = 6\nrefractory_min = 30\n")
    monkeypatch.setenv("CASCADEGUARD_DETECTOR__REFERENCE_H", "24")
    config = load_config(path)
    assert (config.seed, config.detector.reference_h, config.detector.refractory_min) == (3, 24.0, 30)


def test_every_violation_is_listed_in_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, "seed = -1\nsed = 3\n[detector]\nreference_h = 'x'\n[label]\nname = 'price'\n")
    with pytest.raises(InputError) as error:
        load_config(path)
    text = str(error.value)
    assert text.startswith("4 bad settings: ")
    assert all(name in text for name in ("`seed`", "`sed` is not a setting", "`detector.reference_h`", "`label.name`"))
    assert "\n" not in text


def test_a_bad_value_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADEGUARD_SEED", "many")
    with pytest.raises(InputError, match=r"`seed`.*was 'many'.*environment"):
        load_config()


@pytest.mark.parametrize(("text", "said"), [("seed = ", "not readable TOML"), ("seed = nan", "`seed`")])
def test_a_broken_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_config(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="configuration file not found"):
        load_config(tmp_path / "nowhere.toml")


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_config().seed = 4  # type: ignore[misc]  # the mistake this test is about


def test_the_command_line_wins_over_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADEGUARD_LAKE", "from-environment")
    assert load_config(None, lake=tmp_path).lake == tmp_path
    assert load_config(None, lake=None).lake == Path("from-environment")
