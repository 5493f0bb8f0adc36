"""The whole TOML file (`RunConfig`), its table `[run]`, and the rules between tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from metta.config.agent import AgentModelConfig
from metta.config.batch_plan import batch_problems
from metta.config.curriculum import AnyCurriculum, CurriculumConfig
from metta.config.env.env_config import EnvConfig
from metta.config.policies import (
    POLICY_TABLES,
    PolicyConfig,
    PolicySettings,
    keeps_worlds,
    num_learners_of,
    policies_problems,
    resolve_policies,
    world_problems,
)
from metta.config.self_play import SelfPlayConfig
from metta.config.training import (
    POLICIES,
    CheckpointConfig,
    CompileConfig,
    DistributedConfig,
    ExperienceConfig,
    KickstartingConfig,
    LoggingConfig,
    LRScheduleConfig,
    NormalizationConfig,
    OptimizerConfig,
    PPOConfig,
    PrioritizedSamplingConfig,
    SimulationConfig,
    VTraceConfig,
)
from metta.config.validation.error_messages import shown
from metta.config.validation.file_paths import FilePath
from metta.config.validation.frozen_model import FrozenModel, Name
from metta.config.validation.key_paths import KeyPath
from metta.errors import Problem, RulesError, similar_name

DEVICE_PATTERN = r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$"


def _known_device(device: str) -> str:
    if not re.match(DEVICE_PATTERN, device):
        hint = similar_name("cuda" if device == "gpu" else device, ("auto", "cpu", "cuda", "mps"))
        message = f'must be "auto", "cpu", "cuda", a GPU such as "cuda:1", or "mps"; got {shown(device)}{hint}'
        raise RulesError([Problem((), message)])
    return device


Device = Annotated[str, AfterValidator(_known_device)]
"""A torch device: `auto`, `cpu`, `cuda`, `cuda:INDEX` or `mps`."""


class RunSection(FrozenModel):
    """Name, seed, device, length and directory of the run."""

    name: Name = Field(
        default="metta",
        description="name of the run and prefix of its directory; omitted in a file: the file's name without .toml",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of all random numbers")
    device: Device = Field(
        default="auto",
        json_schema_extra={"pattern": DEVICE_PATTERN, "examples": ["auto", "cpu", "cuda", "cuda:1", "mps"]},
        description="Torch device: auto (CUDA if available, else CPU), cpu, cuda, a GPU by its index such as cuda:1, "
        "or mps (the GPU of an Apple computer)",
    )
    total_timesteps: int = Field(default=10_000_000, ge=1, lt=2**53, description="length of training, agent steps")
    run_dir: FilePath = Field(default="", description="run directory; empty: runs/NAME-DATE-TIME")
    init_from: FilePath = Field(
        default="",
        description="policy checkpoint, or a run (its newest policy; RUN/best.pt: its best one), whose weights the new "
        "run starts with as far as they fit; empty: random weights",
    )


class RunConfig(FrozenModel):
    """A training run: all tables of the TOML file. Omitted keys keep their defaults."""

    run: RunSection = Field(default_factory=RunSection)
    env: EnvConfig = Field(default_factory=EnvConfig)
    agent: AgentModelConfig = Field(default_factory=AgentModelConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    lr_schedule: LRScheduleConfig = Field(default_factory=LRScheduleConfig)
    ppo: PPOConfig = Field(default_factory=PPOConfig)
    vtrace: VTraceConfig = Field(default_factory=VTraceConfig)
    prioritized_sampling: PrioritizedSamplingConfig = Field(default_factory=PrioritizedSamplingConfig)
    normalization: NormalizationConfig = Field(default_factory=NormalizationConfig)
    experience: ExperienceConfig = Field(default_factory=ExperienceConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    simulation: SimulationConfig = Field(default_factory=SimulationConfig)
    curriculum: AnyCurriculum = Field(default_factory=CurriculumConfig)
    kickstarting: KickstartingConfig = Field(default_factory=KickstartingConfig)
    self_play: SelfPlayConfig = Field(default_factory=SelfPlayConfig)
    policies: dict[Name, PolicyConfig] = Field(
        default_factory=dict,
        description="the policies that play the agents, by name; empty: one policy without a name plays all agents",
    )
    distributed: DistributedConfig = Field(default_factory=DistributedConfig)
    compile: CompileConfig = Field(default_factory=CompileConfig)
    logging: LoggingConfig = Field(default_factory=LoggingConfig)

    @model_validator(mode="after")
    def _tables_agree(self) -> Self:
        problems = team_problems(self, None if self.curriculum.scenes else self.env)
        problems += [*egocentric_problems(self), *keep_best_problems(self)]
        if problems:
            raise RulesError(problems)
        return self

    @property
    def policy_paths(self) -> dict[KeyPath, str]:
        """The path of each policy that the config names, by its key; not names of registered policies."""
        paths: dict[KeyPath, str] = {}
        self.with_policies(lambda key, path: paths.setdefault(key, path))
        return paths

    def with_values(self, **tables: Mapping[str, Any]) -> Self:
        """A copy with other values of its tables, which are not checked: `with_values(run={"seed": 3})`."""
        changed = {name: getattr(self, name).model_copy(update=dict(values)) for name, values in tables.items()}
        return self.model_copy(update=changed)

    def with_policies(self, change: Callable[[KeyPath, str], str]) -> Self:
        """A copy with `change(key, path)` instead of the path of each policy that the config names.

        Names of registered policies, which teachers can have, stay as they are.
        """

        def changed(path: str, *key: str | int) -> str:
            is_registered = key[-1] == "teacher" and path in POLICIES
            return change(key, path) if path and not is_registered else path

        def teacher_and_opponents(place: KeyPath, teacher: str, opponents: Sequence[str]) -> tuple[Any, Any]:
            teacher = changed(teacher, *place, "kickstarting", "teacher")
            policies = [changed(path, *place, "self_play", "policies", i) for i, path in enumerate(opponents)]
            return {"teacher": teacher}, {"policies": policies}

        init_from = changed(self.run.init_from, "run", "init_from")
        kickstarting, self_play = teacher_and_opponents((), self.kickstarting.teacher, self.self_play.policies)
        policies = {}
        for name, policy in self.policies.items():
            place = ("policies", name)
            own_teacher, own_opponents = teacher_and_opponents(
                place, policy.kickstarting.get("teacher", ""), policy.self_play.get("policies", ())
            )
            policies[name] = policy.model_copy(
                update={
                    "init_from": changed(policy.init_from, *place, "init_from"),
                    "kickstarting": policy.kickstarting.replaced(own_teacher),
                    "self_play": policy.self_play.replaced(own_opponents),
                }
            )
        tables = {"run": {"init_from": init_from}, "kickstarting": kickstarting, "self_play": self_play}
        return self.with_values(**tables).model_copy(update={"policies": policies})


def policy_settings(config: RunConfig, env: EnvConfig | None = None) -> tuple[PolicySettings, ...]:
    """The policies of a run, in the order of the file; one without a name if the file has no `[policies]`.

    `env` is a world of the run, by default `[env]`; with `share = false`, its agents determine the number of policies.
    """
    return resolve_policies(_shared_settings(config), config.policies, env or config.env)


def config_of_policy(config: RunConfig, policy: PolicySettings) -> RunConfig:
    """The config of a run whose only policy has these settings, such as for estimates of its size."""
    return config.model_copy(update={name: getattr(policy, name) for name in POLICY_TABLES})


def _shared_settings(config: RunConfig) -> PolicySettings:
    """The policy that the file's own tables describe."""
    tables = {name: getattr(config, name) for name in POLICY_TABLES}
    return PolicySettings("", (), None, True, config.run.init_from, **tables)


def team_problems(config: RunConfig, env: EnvConfig | None, num_agents: int = 1) -> list[Problem]:
    """The problems with policies, opponents and sizes of experience in the world `env`.

    Without it, only those in any world with at least `num_agents` agents.
    """
    shared = _shared_settings(config)
    problems = [
        Problem(("policies", *problem.path), problem.message) for problem in policies_problems(shared, config.policies)
    ]
    together = 1
    if not problems and env is not None:
        problems = world_problems(shared, config.policies, env)
        if not problems:
            policies = policy_settings(config, env)
            num_agents = sum(num_learners_of(policy, env) for policy in policies)
            together = max([1, *(num_learners_of(policy, env) for policy in policies if keeps_worlds(policy))])
    return [*problems, *experience_problems(config.experience, num_agents, together)]


def egocentric_problems(config: RunConfig) -> list[Problem]:
    """The problems with `agent.egocentric` in a world whose observation window is not square."""
    height, width = config.env.game.observation_height, config.env.game.observation_width
    if height == width:
        return []
    set_by: dict[KeyPath, bool] = {}
    for name, policy in config.policies.items():
        place = ("policies", name) if "egocentric" in policy.agent else ()
        set_by[place] = policy.train and policy.agent.get("egocentric", config.agent.egocentric)
    if not config.policies:
        set_by[()] = config.agent.egocentric
    window = f"observation_height is {height} and observation_width {width}"
    message = f"needs a square observation window, which can be rotated; {window}"
    return [Problem((*place, "agent", "egocentric"), message) for place, is_set in set_by.items() if is_set]


def keep_best_problems(config: RunConfig) -> list[Problem]:
    """The problem with `checkpoint.keep_best` in a run without evaluations, by which the best policy is chosen."""
    if not config.checkpoint.keep_best or config.simulation.evaluate_interval:
        return []
    message = "chooses by evaluations, which are off; set simulation.evaluate_interval to the seconds between them"
    return [Problem(("checkpoint", "keep_best"), message)]


def experience_problems(experience: ExperienceConfig, num_learners: int, together: int) -> list[Problem]:
    """The problems with `[experience]` in worlds where `num_learners` agents learn; see `batch_problems`."""
    problems = batch_problems(experience, num_learners, together)
    return [Problem(("experience", *problem.path), problem.message) for problem in problems]
