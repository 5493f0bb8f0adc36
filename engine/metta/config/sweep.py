"""The table `[sweep]` of a sweep file: which settings of a base config a sweep varies, and what it improves."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from metta.config.validation.error_messages import shown
from metta.config.validation.file_paths import FilePath
from metta.config.validation.frozen_model import FrozenModel, Name
from metta.errors import Problem, RulesError, similar_name

EVALUATION, REWARD, SECONDS = "evaluation/mean_reward", "reward", "seconds to reward"
DEFAULT_TRIALS: Final = 20


def _known_metric(metric: str) -> str:
    """The metric in its normal form. Raises RulesError for an unknown one."""
    if metric in (EVALUATION, REWARD) or _policy_of(metric):
        return metric
    name, equals, number = metric.partition("=")
    if " ".join(name.split()) == SECONDS:
        if equals and re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?\s*", number):
            return f"{SECONDS} = {float(number):g}"
        raise RulesError([Problem((), f'needs the reward to reach, as in "{SECONDS} = 5"; got {shown(metric)}')])
    known = f'"{EVALUATION}", "{REWARD}", "{REWARD}/POLICY", "evaluation/POLICY/mean_reward" or "{SECONDS} = NUMBER"'
    hint = similar_name(metric, (EVALUATION, REWARD, f"{SECONDS} = 5"))
    raise RulesError([Problem((), f"must be {known}; got {shown(metric)}{hint}")])


def _policy_of(metric: str) -> str:
    """The policy in `reward/POLICY` or `evaluation/POLICY/mean_reward`; empty for other metrics."""
    match = re.fullmatch(r"reward/(?P<reward>[^/]+)|evaluation/(?P<evaluation>[^/]+)/mean_reward", metric)
    return next(filter(None, match.groups())) if match else ""


class ParameterConfig(FrozenModel):
    """The values that a sweep tries for a setting: `values`, or numbers from `low` to `high`."""

    low: float | None = Field(default=None, description="smallest number")
    high: float | None = Field(default=None, description="largest number")
    log: bool = Field(default=False, description="search the logarithm: for numbers of several orders of magnitude")
    step: float | None = Field(
        default=None, gt=0, description="only low, low + step, low + 2 step and so on up to high"
    )
    values: list[Any] | None = Field(
        default=None, min_length=1, max_length=1000, description="instead of low and high: a list to choose from"
    )

    @model_validator(mode="after")
    def _is_range_or_values(self) -> Self:
        problems = list(self._problems())
        if problems:
            raise RulesError(problems)
        return self

    def _problems(self) -> list[Problem]:
        given = [name for name in ("low", "high", "step") if getattr(self, name) is not None]
        given += ["log"] if self.log else []
        if self.values is not None:
            return [Problem((name,), "cannot be combined with values; leave one of them out") for name in given]
        if self.low is None or self.high is None:
            missing = " and ".join(name for name in ("low", "high") if name not in given)
            return [Problem((), f"needs {missing}, or values = [...]")]
        if self.low >= self.high:
            return [Problem(("low",), f"must be less than high; got {self.low:g} and {self.high:g}")]
        problems = []
        if self.log and self.low <= 0:
            problems.append(Problem(("low",), f"must be more than 0 with log = true; got {self.low:g}"))
        if self.log and self.step is not None:
            problems.append(
                Problem(("step",), "cannot be combined with log = true; list the numbers as values = [...]")
            )
        elif self.step is not None:
            problems += self._step_problems(self.low, self.high, self.step)
        return problems

    @staticmethod
    def _step_problems(low: float, high: float, step: float) -> list[Problem]:
        count = (high - low) / step
        if math.isclose(count, round(count), rel_tol=1e-9) and round(count) >= 1:
            return []
        last = low + math.floor(count + 1e-9) * step
        hint = f"; the last one below is {last:g}" if last > low else "; it is larger than high - low"
        return [Problem(("step",), f"must lead from low to high ({low:g} to {high:g}); got {step:g}{hint}")]


class SweepConfig(FrozenModel):
    """A search for better settings: trials with values of `parameters`, each scored by training with them."""

    name: Name = Field(
        default="sweep",
        description="name of the study and prefix of the sweep's directory; omitted: the file's name without .toml",
    )
    base: str = Field(
        min_length=1,
        description="preset or TOML file (in the directory of this file, else in the working directory) whose settings "
        "all trials have",
    )
    trials: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description=f"trials, pruned and failed ones included; unset: {DEFAULT_TRIALS}, or with sampler grid all "
        "combinations",
    )
    seeds: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="runs per trial, whose seeds are run.seed, run.seed + 1, ...; the score of a trial is their mean",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of the sampler")
    metric: Annotated[str, AfterValidator(_known_metric)] = Field(
        default=EVALUATION,
        json_schema_extra={"examples": [EVALUATION, REWARD, f"{SECONDS} = 5"]},
        description="score of a run: evaluation/mean_reward (mean reward of 32 episodes with its last policy), reward "
        "(mean over the last tenth of its epochs with a reward), both also of one policy of [policies] "
        "(evaluation/POLICY/mean_reward, reward/POLICY), or seconds to reward = NUMBER (seconds of training until the "
        "reward of an epoch is at least NUMBER; less is better; 1,000,000 or more if no epoch's is)",
    )
    sampler: Literal["tpe", "cmaes", "random", "grid"] = Field(
        default="tpe",
        description="how values are chosen: tpe (tree-structured Parzen estimator), cmaes (CMA-ES, for ranges), "
        "random, or grid (each combination of values and steps once, in random order)",
    )
    pruner: Literal["hyperband", "median", "none"] = Field(
        default="hyperband",
        description="which trials stop early: hyperband (those behind most others at 1/9 or 1/3 of the training), "
        "median (from 1/3 on, those behind the median), or none. Both stop trials only where complete ones, 6 or more, "
        "had rewards in the order of their scores in at least 3/4 of all pairs",
    )
    storage: FilePath = Field(
        default="",
        description="database of the study: a URL such as postgresql://HOST/NAME, or a journal file, also on a network "
        "disk; empty: study.db (SQLite) in the sweep's directory",
    )
    parameters: dict[str, ParameterConfig] = Field(
        min_length=1,
        max_length=100,
        description="by TOML key, what the sweep varies: { low = 1e-4, high = 1e-2, log = true } or { values = [...] }",
    )

    @property
    def reward_to_reach(self) -> float | None:
        """The reward of the metric `seconds to reward = NUMBER`; None for other metrics."""
        return float(self.metric.partition("=")[2]) if self.metric.startswith(SECONDS) else None

    @property
    def policy(self) -> str:
        """The policy whose reward is the metric; empty if it is that of all agents."""
        return _policy_of(self.metric)

    @property
    def is_evaluation(self) -> bool:
        """Whether the last policy of a run is evaluated for the metric."""
        return self.metric.startswith("evaluation/")

    @property
    def reward_name(self) -> str:
        """Name of the metric of an epoch by which trials are compared while they run."""
        return f"{REWARD}/{self.policy}" if self.policy else REWARD

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Whether a larger or a smaller score is better."""
        return "maximize" if self.reward_to_reach is None else "minimize"


class SweepTables(FrozenModel):
    """The table that a sweep file has besides those of a TOML file, which change its base."""

    sweep: SweepConfig = Field(description="what the sweep varies and improves")
