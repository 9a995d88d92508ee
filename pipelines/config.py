"""Configuration: one frozen, typed object from `cascadeguard.toml` and the environment, validated whole."""

import tomllib
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from pipelines.errors import InputError

DEFAULT_FILE = Path("cascadeguard.toml")
Severity: TypeAlias = Literal["info", "warning", "critical"]
AlertKind: TypeAlias = Literal["episode", "breaker", "data", "run"]
ALERT_KINDS: tuple[AlertKind, ...] = ("episode", "breaker", "data", "run")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class BarsConfig(Section):
    """The bars. Features, models and guardrails are made for 60 s; other intervals are for use outside of them."""

    interval_s: int = Field(60, ge=1, le=86_400, description="length of a bar; divides a day")

    @field_validator("interval_s")
    @classmethod
    def _divides_a_day(cls, value: int) -> int:
        if 86_400 % value:
            raise ValueError("must divide 86400")
        return value


class DetectorConfig(Section):
    """The unsupervised detector: who judges, where "normal" is learned, and how rarely it may cry."""

    kind: Literal["families", "robust_z", "isolation_forest", "ecod", "pca_residual", "mahalanobis", "ensemble"] = (
        Field("families", description="who judges how unusual a minute is; reasons always come from families")
    )
    reference: Literal["first", "trailing"] = Field(
        "first", description="the first hours of a scored interval, or the last ones before it, cascades left out"
    )
    reference_h: float = Field(12.0, gt=0, le=24 * 90, description="hours that define normal")
    gap_min: int = Field(60, ge=0, description="between a trailing reference and the scored interval")
    budget_episodes_per_symbol_day: float = Field(0.5, gt=0, le=24)
    refractory_min: int = Field(60, ge=1, le=1440, description="alerts closer than this are one episode")
    null_share_max: float = Field(0.5, ge=0, lt=1, description="a feature with more nulls in the reference is not used")


class WarningConfig(Section):
    """The supervised early-warning model."""

    kind: Literal["trees", "line"] = Field("trees", description="boosted trees, or logistic regression for few events")
    rounds: int = Field(200, ge=1, le=10_000)
    leaves: int = Field(7, ge=2, le=1024)
    learning_rate: float = Field(0.05, gt=0, le=1)
    leaf_rows_min: int = Field(100, ge=1)
    l2: float = Field(10.0, ge=0)
    negative_share: float = Field(
        0.25, gt=0, le=1, description="of quiet rows kept for training; corrected for exactly"
    )
    folds: int = Field(3, ge=2, le=50)
    embargo_min: int = Field(60, ge=0)
    threshold_by: Literal["budget", "cost", "miss_rate", "trailing"] = Field(
        "budget", description="trailing: moves with the market; the budget's until enough has been said"
    )
    trailing_share: float = Field(0.005, gt=0, lt=1, description="of a symbol's recent bars above a trailing threshold")
    trailing_days: int = Field(7, ge=1, le=90, description="how far a trailing threshold looks back")
    budget_episodes_per_symbol_day: float = Field(1.0, gt=0, le=24)
    episodes_per_symbol_day_max: int = Field(2, ge=1, le=1440, description="hard cap on alerts; more are muted")
    cost_false_alarm: float = Field(1.0, gt=0, description="of one alert minute without a cascade")
    cost_missed: float = Field(50.0, gt=0, description="of one minute before a cascade without an alert")
    miss_rate_max: float = Field(0.2, gt=0, lt=1, description="share of cascades that may be missed")
    missing_share_max: float = Field(
        0.5, ge=0, lt=1, description="abstain when more of the model's importance is missing"
    )
    outside_share_max: float = Field(
        0.5, ge=0, lt=1, description="abstain when more of it lies beyond what the training saw"
    )
    threads: int = Field(1, ge=1, le=256)


class BaseConfig(Section):
    """What is learned first from lakes with more history, by moves of the price, which every venue shows."""

    fall_pct: float = Field(1.0, gt=0, lt=100, description="move of the price, up or down, in percent")
    window_min: int = Field(30, ge=1, le=1440)
    sigmas: float = Field(4.0, ge=0)
    known_share_min: float = Field(0.5, ge=0, lt=1, description="a feature that more rows lack is not learned from")


class GateConfig(Section):
    """What a new model must show before it scores."""

    events_min: int = Field(5, ge=1)
    confidence: float = Field(0.9, gt=0, lt=1)
    replicates: int = Field(1000, ge=100, le=100_000)
    margin: float = Field(0.0, ge=0, lt=1, description="of average precision that may be lost")
    miscalibration_max: float = Field(0.25, gt=0, le=1, description="as a share of the uncertainty of outcomes")


class LabelConfig(Section):
    """The cascade label (see the label registry)."""

    name: str = Field("oi_flush", pattern="^(oi_flush|liq_share|liq_burst|adl)$")
    fall_pct: float = Field(
        2.0, gt=0, lt=100, description="fall of open interest, liquidated share of it, or of the fund, in percent"
    )
    window_min: int = Field(30, ge=1, le=1440)
    sigmas: float = Field(4.0, ge=0)
    quantile: float = Field(0.99, gt=0, lt=1, description="liq_burst: of what is liquidated in a window, over a day")
    floor_usd: float = Field(250_000.0, gt=0, description="liq_burst: less in a window is none")
    fund_account: str = Field("insurance_fund", min_length=1, description="adl: whose collateral the fund is")
    refractory_min: int = Field(240, ge=1)


class CostsConfig(Section):
    """Prices of a decision, for `evaluate` and `loop`. They are the desk's to state; these are round numbers."""

    restricted_min_usd: float = Field(10.0, ge=0, description="of one symbol-minute under an action")
    refused_share: float = Field(0.0005, ge=0, description="dollars lost per dollar of growth refused")
    liquidated_share: float = Field(0.01, ge=0, description="dollars lost per dollar liquidated")
    adl_share: float = Field(0.01, ge=0, description="dollars lost per dollar deleveraged")
    bad_debt_share: float = Field(1.0, ge=0, description="dollars lost per dollar of bad debt")
    event_usd: float = Field(100_000.0, ge=0, description="loss in a cascade of average severity, in history")
    avoided_share: float = Field(0.1, ge=0, le=1, description="of that loss, where the cascade was warned of in time")
    action_min: int = Field(60, ge=1, le=1440, description="how long an alert that is acted upon restricts its symbol")


class SimulatorConfig(Section):
    """The venue simulator behind `simulate` and `demo`."""

    symbols: tuple[str, ...] = ("BTC-PERP", "ETH-PERP", "SOL-PERP", "DOGE-PERP")
    accounts: int = Field(1500, ge=10, le=1_000_000)
    days: float = Field(10.0, gt=0, le=3650)
    step_s: int = Field(20, ge=1, le=60)
    profile: str = Field("", description="venue profile whose path, buffer, fees and ADL rule the venue has")
    leverage_median: float = Field(16.0, gt=0, le=50)
    stablecoin_account_share: float = Field(
        0.0, ge=0, le=1, description="of cross accounts that keep a part of their equity in a stablecoin"
    )
    outage_rate_day: float = Field(0.1, ge=0, description="outages of matching or feed in ordinary volatility")
    order_ids: bool = Field(False, description="name the resting order in every book event")


class ScheduleConfig(Section):
    """Scheduled runs: the grid of intervals, and how far back one is caught up, amended and tried again."""

    interval_min: int = Field(5, ge=1, le=60, description="length of an interval; divides 60, ends lie on the UTC hour")
    settle_s: float = Field(20.0, ge=0, le=3600, description="after its end before an interval is due")
    catch_up_h_max: int = Field(24, ge=1, le=24 * 31, description="missed intervals are caught up as far back")
    late_h_max: int = Field(48, ge=1, le=24 * 31, description="late rows amend decisions as far back")
    attempts_max: int = Field(3, ge=1, le=100, description="at an interval that fails; then it is passed over")
    takeover_min: float = Field(30.0, gt=0, le=1440, description="a run at work for longer may be replaced by another")
    registry_min: int = Field(60, ge=0, le=1440, description="between two looks into a registry on a server")

    @field_validator("interval_min")
    @classmethod
    def _divides_an_hour(cls, value: int) -> int:
        if 60 % value:
            raise ValueError("must divide 60")
        return value


class SourceConfig(Section):
    """One `[[sources]]` table: files that every run takes, named as `cascadeguard ingest` names them."""

    adapter: str = Field(min_length=1)
    paths: tuple[str, ...] = Field(min_length=1, description="files, folders, or patterns such as inbox/*.csv.gz")
    venue: str | None = Field(None, min_length=1)
    symbol: str | None = Field(None, min_length=1)
    role: Literal["perp", "spot"] = "perp"
    kind: str | None = Field(None, min_length=1)
    mapping: Path | None = None


class PollConfig(Section):
    """One `[[polls]]` table: a venue whose public endpoints `cascadeguard poll` asks."""

    exchange: str = Field(pattern="^[a-z0-9_]+$", description="the exchange as ccxt calls it, such as binanceusdm")
    venue: str = Field(pattern="^[a-z0-9][a-z0-9_-]*$", description="the venue as the instrument files call it")
    symbols: tuple[str, ...] = Field(min_length=1, description="the venue's own ids, as in the instrument files")
    role: Literal["perp", "spot"] = "perp"
    kinds: tuple[Literal["marks", "book", "funding", "open_interest", "trades"], ...] = Field(
        ("marks", "book", "funding", "open_interest", "trades"), min_length=1
    )
    book_levels: int = Field(500, ge=1, le=5000, description="of each side; a venue takes some numbers only")
    timeout_s: float = Field(10.0, gt=0, le=300, description="for one answer")
    attempts_max: int = Field(3, ge=1, le=20, description="at one question")
    seconds_max: float = Field(120.0, gt=0, le=3600, description="for a whole run; it ends then with what it has")
    base_url: str = Field("", description="stands in for the host of every endpoint: https, or a loopback address")

    @field_validator("symbols", "kinds")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("must not name anything twice")
        return value

    @field_validator("base_url")
    @classmethod
    def _private_or_encrypted(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        sound = host is not None and (parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK))
        if value and not sound:
            raise ValueError("must be an https address, or http on a loopback address")
        return value


class MlflowConfig(Section):
    """Tracking and registry. An empty address means an embedded SQLite store inside the lake."""

    tracking_uri: str = ""
    experiment: str = Field("cascadeguard", min_length=1)
    detector_name: str = Field("cascadeguard-detector", min_length=1)
    warning_name: str = Field("cascadeguard-warning", min_length=1)


class SinkConfig(Section):
    """One place that alerts go to. Its address holds secrets: the settings name an environment variable, never more."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,32}$", description="as `alerts test NAME` says it")
    url_env: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="environment variable with an Apprise URL")
    severity_min: Severity = "info"
    kinds: tuple[AlertKind, ...] = Field(ALERT_KINDS, min_length=1, description="what it is told of")
    form: Literal["full", "short"] = Field("full", description="short: a few lines, for chat and pagers")


class RepeatConfig(Section):
    """Minutes until what lasts is told again, by severity; 0: never."""

    critical: int = Field(15, ge=0, le=10_080)
    warning: int = Field(60, ge=0, le=10_080)
    info: int = Field(0, ge=0, le=10_080)


class AlertsConfig(Section):
    """What is told to whom, how often, and for how long it is tried."""

    repeat_min: RepeatConfig = RepeatConfig()
    recover_hold_min: int = Field(10, ge=0, le=1440, description="how long a condition is gone before that is told")
    expire_h: float = Field(24.0, gt=0, le=24 * 30, description="a message that nobody took is given up after this")
    timeout_s: float = Field(10.0, gt=0, le=60, description="for a sink to take one message")
    probability_critical: float = Field(0.5, gt=0, le=1, description="of a cascade within the hour")
    anomaly_ratio_warning: float = Field(2.0, ge=1, description="anomaly over its threshold")
    failures_critical: int = Field(3, ge=1, description="failed runs one after the other")
    sinks: tuple[SinkConfig, ...] = ()

    @field_validator("sinks")
    @classmethod
    def _distinct(cls, value: tuple[SinkConfig, ...]) -> tuple[SinkConfig, ...]:
        names = [sink.name for sink in value]
        if len(set(names)) < len(names):
            raise ValueError("every sink must have a name of its own")
        return value


class ObserveConfig(Section):
    """Logs, metrics and health of the scheduled runs."""

    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto: json where nobody looks on")
    lag_min_max: int = Field(15, ge=1, le=10_080, description="a venue whose last good interval is older is late")
    disk_free_gb_min: float = Field(1.0, ge=0, description="less on the lake's disk is not well")
    push_url_env: str = Field(
        "", pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$", description="environment variable with a Pushgateway's address"
    )
    push_timeout_s: float = Field(3.0, gt=0, le=60)
    secret_envs: tuple[str, ...] = Field(
        (), description="further environment variables whose values are masked in logs"
    )


class ServeConfig(Section):
    """The dashboard of `serve`. The token is no setting: it comes from the environment alone."""

    host: str = Field("127.0.0.1", min_length=1, max_length=255, description="address it listens on")
    port: int = Field(8010, ge=0, le=65_535, description="0: any that is free")
    names: tuple[str, ...] = Field(
        (), description="further host names that browsers may call it by, behind a proxy; they demand the token"
    )
    poll_s: int = Field(15, ge=1, le=3600, description="between two looks of an open page at the lake")
    stale_min: int = Field(10, ge=1, le=1440, description="data older than this is told in big letters")
    history_h: int = Field(24, ge=1, le=168, description="what the page of a symbol looks back on")


class Config(BaseSettings):
    """Everything that can be set; `CASCADEGUARD_DETECTOR__REFERENCE_H=24` overrides `[detector] reference_h`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="CASCADEGUARD_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    lake: Path = Path("lake")
    instruments: tuple[Path, ...] = ()
    policy: Path | None = None
    seed: int = Field(7, ge=0, lt=2**31)
    bars: BarsConfig = BarsConfig()
    detector: DetectorConfig = DetectorConfig()
    warning: WarningConfig = WarningConfig()
    base: BaseConfig = BaseConfig()
    gate: GateConfig = GateConfig()
    label: LabelConfig = LabelConfig()
    costs: CostsConfig = CostsConfig()
    simulator: SimulatorConfig = SimulatorConfig()
    mlflow: MlflowConfig = MlflowConfig()
    alerts: AlertsConfig = AlertsConfig()
    observe: ObserveConfig = ObserveConfig()
    serve: ServeConfig = ServeConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    sources: tuple[SourceConfig, ...] = ()
    polls: tuple[PollConfig, ...] = ()

    @field_validator("polls")
    @classmethod
    def _one_of_each_venue(cls, value: tuple[PollConfig, ...]) -> tuple[PollConfig, ...]:
        if len({poll.venue for poll in value}) < len(value):
            raise ValueError("must name each venue once")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings


def _violation(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"]) or "configuration"
    if error["type"] == "extra_forbidden":
        return f"`{name}` is not a setting"
    return f"`{name}`: {error['msg'].removeprefix('Value error, ')}, was {error['input']!r}"


def load_config(path: Path | None = None, **overrides: Any) -> Config:
    """Read `path` (default `cascadeguard.toml` if it exists, else built-in defaults).

    The environment wins over the file, `overrides` that are not None win over both.

    Raises InputError that lists every violation at once.
    """
    chosen = path if path is not None else (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    values: dict[str, Any] = {}
    if chosen is not None:
        try:
            values = tomllib.loads(chosen.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                "configuration file not found", where=chosen, mend="name an existing file with --config"
            ) from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"configuration is not readable TOML ({error})", where=chosen) from None
    try:
        config = Config(**values)
    except ValidationError as error:
        found = [_violation(item) for item in error.errors(include_url=False)]
        where = chosen if chosen is not None else "environment"
        raise InputError(
            f"{len(found)} bad setting{'s' * (len(found) > 1)}: " + " | ".join(found), where=where
        ) from None
    return config.model_copy(update={name: value for name, value in overrides.items() if value is not None})
