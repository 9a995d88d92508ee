"""The simulator's settings from the configuration: its defaults, a venue profile, and what is refused."""

import pytest

from models.simulator import VenueSettings
from pipelines.config import Config, SimulatorConfig
from pipelines.errors import InputError
from pipelines.profiles import load_profile, shipped_names
from pipelines.simulate import venue_settings


def settings_of(**chosen: object) -> VenueSettings:
    return venue_settings(Config(simulator=SimulatorConfig.model_validate(chosen)))


def test_the_defaults_of_the_configuration_are_those_of_the_simulator() -> None:
    assert settings_of() == VenueSettings()


def test_every_setting_of_the_configuration_reaches_the_simulator() -> None:
    chosen = {"accounts": 77, "leverage_median": 9.0, "outage_rate_day": 2.0, "order_ids": True}
    settings = settings_of(**chosen, stablecoin_account_share=0.3, symbols=["X-PERP"], step_s=30)
    assert {name: getattr(settings, name) for name in chosen} == chosen
    assert (settings.stablecoin_account_share, settings.symbols, settings.step_s) == (0.3, ("X-PERP",), 30)


@pytest.mark.parametrize("name", shipped_names())
def test_a_venue_can_be_simulated_under_every_profile_that_is_shipped(name: str) -> None:
    settings, profile = settings_of(profile=name), load_profile(name)
    assert (settings.path, settings.exit_buffer, settings.adl) == (profile.path, profile.buffer, profile.adl)
    assert (settings.fee_taker, settings.fee_liquidation) == (profile.fees.taker, profile.fees.liquidation)


def test_an_unknown_profile_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="mtgox"):
        settings_of(profile="mtgox")


def test_settings_that_contradict_each_other_are_named() -> None:
    with pytest.raises(InputError, match="`stablecoin`"):
        settings_of(symbols=["USDE-PERP"])
