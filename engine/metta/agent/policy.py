"""`MettaAgent`, the actor-critic network, and `Policy`, the protocol that trained and scripted policies implement."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from metta.agent import action_distribution
from metta.agent.backbones import make_backbone
from metta.agent.devices import exact_dtype
from metta.agent.direct_inputs import DirectInputs
from metta.agent.egocentric import EgocentricFrame
from metta.agent.heads import POLICY_GAIN, MlpHead, ValueHead, initialize_weights
from metta.agent.memory.lstm import SegmentLSTM
from metta.agent.memory.make_memory import initial_memory, make_memory
from metta.agent.memory.network import run_memory
from metta.agent.memory.state import Memory
from metta.agent.sparse_tokens import Observations, PackedTokens, token_sums
from metta.agent.tokens import ObservationProcessor, unchanged
from metta.agent.window import WINDOW_FIELDS, WindowConversion
from metta.config.agent import BACKBONES, OBSERVATION_PROCESSORS, AgentModelConfig
from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec
from metta.errors import UsageError, did_you_mean
from metta.spaces import ActionSpace, ObservationSpace


@dataclass(frozen=True)
class PolicyOutput:
    """Actions, log-probabilities and values of one step, and the memory after it."""

    actions: Tensor
    """`[agents, 2] int32`: (action id, argument)"""
    action_index: Tensor
    """`[agents] int64`: the same as an index into `spec.flat_actions`"""
    log_probs: Tensor
    """`[agents] float32`: log pi(action)"""
    values: Tensor
    """`[agents] float32`: expected discounted return"""
    memory: Memory
    """the memory after this step"""
    logits: Tensor | None = None
    """`[agents, actions] float32`: unnormalized log-probabilities of `spec.flat_actions`, the smallest number for
    masked ones; None if there are none"""


@dataclass(frozen=True)
class ActionEvaluation:
    """Log-probabilities of recorded actions under the current policy, with entropies, values and logits."""

    log_probs: Tensor
    """`[horizon, segments] float32`"""
    entropy: Tensor
    """`[horizon, segments] float32`, in nats"""
    values: Tensor
    """`[horizon, segments] float32`"""
    logits: Tensor
    """`[horizon, segments, actions] float32`, of masked actions the smallest number"""


class Policy(Protocol):
    """Protocol of policies: `MettaAgent`, the scripted policy and the random policy implement it."""

    @property
    def spec(self) -> EnvSpec:
        """The observations and actions of the environments that the policy supports."""

    @property
    def uses_action_masks(self) -> bool:
        """Whether `act` is called with the action masks of the environment; if not, with None."""

    def initial_memory(self, agents: int) -> Memory:
        """The memory before an episode's first step."""

    def act(
        self,
        observations: Tensor,
        memory: Memory,
        episode_starts: Tensor | None = None,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
        action_masks: Tensor | None = None,
    ) -> PolicyOutput:
        """Choose actions for `[agents, tokens, 3] uint8`.

        Memory is cleared first where `episode_starts [agents] bool`. `action_masks [agents, actions] bool` are those of
        `MettaGridEnv.action_masks`: actions, in the order of `spec.flat_actions`, that can succeed; None: all.
        """


def check_policy_fits(policy: Policy, spec: EnvSpec) -> None:
    """Raise UsageError if environments of `spec` differ in tokens or actions from those that the policy supports."""
    if differing := policy.spec.differing_fields(spec):
        raise UsageError(
            f"the policy was made for another environment: {', '.join(differing)} differ; "
            "create it with the spaces of the environment in which it will play, or load it for that environment: "
            "load_policy(path, env_config=env.config)"
        )


class MettaAgent(nn.Module):
    """A recurrent actor-critic network on token observations; its outputs depend only on tokens and memory.

    tokens -> observation processor -> backbone -> + cell ahead, previous action, previous reward, global features ->
    memory -> policy and value heads. With `egocentric`, tokens are first rotated into the agent's frame, for all of
    these inputs, and logits are rotated back at the end. A policy that was trained with another observation window
    than that of its environment (`network_spec`) first converts observations to the window that it was trained with.

    The cell ahead is a separate input because nearly all actions apply to it. Token locations do not rotate with the
    agent, so without this input the network would have to learn where that cell is in each of the four orientations.
    """

    def __init__(
        self,
        observation_space: ObservationSpace,
        action_space: ActionSpace,
        global_features: Sequence[str] = (),
        device: torch.device | str = "cpu",
        config: AgentModelConfig | None = None,
        network_spec: EnvSpec | None = None,
    ):
        super().__init__()
        config = config or AgentModelConfig()
        self.spec = action_space.spec
        self.network_spec = spec = network_spec or self.spec
        """`spec`, with the window and token limit of the observations that the network reads"""
        self.window: WindowConversion | None = None
        if any(getattr(spec, field) != getattr(self.spec, field) for field in WINDOW_FIELDS):
            self.window = WindowConversion(self.spec, spec)
        for name in global_features:
            if name not in spec.feature_names:
                hint = did_you_mean(name, spec.feature_names)
                raise UsageError(f'global_features: unknown feature "{name}"{hint}')
        if not spec.flat_actions:
            raise UsageError("this environment has no action that can succeed: enable one whose required items exist")
        self.config = config
        self.env_config: EnvConfig = observation_space.env_config
        self.global_features = list(global_features)
        self.observation_processor: ObservationProcessor = OBSERVATION_PROCESSORS.find(config.obs_process_func)
        self.egocentric_frame = EgocentricFrame(spec, self.env_config) if config.egocentric else None
        hidden = config.hidden_dim
        self.backbone = make_backbone(spec, config)
        self.ahead: nn.Parameter | None = None
        if config.use_cell_ahead:
            self.ahead = nn.Parameter(0.5 * torch.randn(self.backbone.codes.num_channels, hidden))
        self.direct_inputs = DirectInputs(spec, self.global_features, config.obs_scale)
        self.action_embedding = nn.Embedding(self.direct_inputs.num_actions, hidden) if config.use_prev_action else None
        extra = config.use_prev_reward + len(self.global_features)
        self.extra_inputs = nn.Linear(extra, hidden, bias=False) if extra else None
        self.memory = make_memory(config)
        initialized = (
            self.backbone if BACKBONES.is_custom(config.backbone) else None,
            None if isinstance(self.memory, SegmentLSTM) else self.memory,
        )
        initialize_weights(self, exclude=[module for module in initialized if module is not None])
        self.policy_head = MlpHead(hidden, config.mlp_layers, len(spec.flat_actions), POLICY_GAIN)
        self.value_head = ValueHead(hidden, config.mlp_layers, config.critic, len(spec.group_ids))
        if self.action_embedding is not None:
            nn.init.normal_(self.action_embedding.weight, std=0.1)
        self.flat_actions: Tensor
        self.register_buffer("flat_actions", torch.tensor(spec.flat_actions, dtype=torch.int32), persistent=False)
        self.value_head.moments = self.value_head.moments.to(exact_dtype(torch.device(device)))
        self.to(device)
        self.initial_weights: dict[str, Tensor] = {}
        self.update_initial_weights()

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.flat_actions.device

    @property
    def uses_action_masks(self) -> bool:
        """Whether actions that cannot succeed are never sampled: `config.mask_actions`."""
        return self.config.mask_actions

    def initial_memory(self, agents: int) -> Memory:
        """Zeros `[layers, agents, ...] float32`; 0 layers for a policy without memory."""
        return initial_memory(self.memory, self.config.hidden_dim, agents).to(self.device)

    @torch.no_grad()
    def act(
        self,
        observations: Observations,
        memory: Memory,
        episode_starts: Tensor | None = None,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
        action_masks: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> PolicyOutput:
        """Choose actions for observations, `[agents, tokens, 3] uint8` or packed.

        Memory is cleared first where `episode_starts [agents] bool`. Actions are sampled with `generator`, which is of
        the agent's device or of the CPU (None: torch's global one of the agent's device), or are the most likely ones
        if `deterministic`. Those that `action_masks [agents, actions] bool` (`MettaGridEnv.action_masks`) exclude are
        never taken. Only values depend on `groups [worlds, agents of a world]`, see `forward`.

        Raises UsageError without masks if the policy uses them.
        """
        self._check_masks(action_masks)
        logits, values, memory = self._one_step(observations, memory, episode_starts, groups)
        allowed = action_distribution.masked_logits(logits, action_masks)
        action_index = allowed.argmax(-1) if deterministic else action_distribution.sample(allowed, generator)
        return PolicyOutput(
            self.flat_actions[action_index],
            action_index,
            action_distribution.log_prob(allowed, action_index),
            values,
            memory,
            allowed,
        )

    def evaluate_actions(
        self,
        observations: Observations,
        action_index: Tensor,
        memory: Memory,
        episode_starts: Tensor,
        action_masks: Tensor | None = None,
        start_steps: Sequence[bool] | None = None,
        groups: Tensor | None = None,
    ) -> ActionEvaluation:
        """Log-probabilities, entropies and values of recorded segments, differentiable.

        `observations [horizon, segments, tokens, 3] uint8`, or packed, those of the first step first; `action_index
        [horizon, segments] int64`. `memory` is that before the first step; it is cleared before each step that
        `episode_starts [horizon, segments] bool` marks. `action_masks [horizon, segments, actions] bool` are those
        under which the actions were sampled. `start_steps [horizon]`, whether any segment has an episode start at a
        step, saves time on a GPU. `groups` are those of `forward`. Raises UsageError without masks if the policy uses
        them.
        """
        self._check_masks(action_masks)
        logits, values, _ = self(observations, memory, episode_starts, start_steps, groups)
        logits = action_distribution.masked_logits(logits, action_masks)
        log_probs, entropy = action_distribution.log_prob_and_entropy(logits, action_index)
        return ActionEvaluation(log_probs, entropy, values, logits)

    def _check_masks(self, action_masks: Tensor | None) -> None:
        if self.uses_action_masks and action_masks is None:
            raise UsageError(
                "the agent has mask_actions = True, so it needs action_masks: torch.from_numpy(env.action_masks())"
            )

    @torch.no_grad()
    def value(
        self,
        observations: Observations,
        memory: Memory,
        episode_starts: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> Tensor:
        """`[agents] float32`: the values of observations, as those of `act`; `memory` is not changed."""
        return torch.as_tensor(self._one_step(observations, memory, episode_starts, groups)[1])

    def forward(
        self,
        observations: Observations,
        memory: Memory,
        episode_starts: Tensor,
        start_steps: Sequence[bool] | None = None,
        groups: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Memory]:
        """Logits `[horizon, agents, actions]`, values `[horizon, agents]`, both float32, and the memory afterwards.

        `observations [horizon, agents, tokens, 3] uint8`, or packed, those of the first step first; `episode_starts
        [horizon, agents] bool`; `start_steps` as in `evaluate_actions`. `groups [horizon, worlds, agents of a world]`
        are the indices of the agents' groups, if agents are ordered by world: with `agent.critic`, values also depend
        on the other agents of the group or the world. Without `groups`, each agent is alone.
        """
        horizon, agents = episode_starts.shape
        packed = self._packed(observations, horizon, agents)
        if self.window is not None:
            packed = self.window(packed)
        orientation: Tensor | None = None
        if self.egocentric_frame is not None:
            orientation = self.egocentric_frame.agent_orientation(packed)
            packed = self.egocentric_frame(packed, orientation)
        with self._autocast():
            features = self._features(packed).view(horizon, agents, -1)
            if self.memory is not None:
                features, memory = run_memory(
                    self.memory, features, memory, episode_starts, self.config.bptt_horizon, start_steps
                )
            logits = self.policy_head(features)
            values = self.value_head(features, groups)
        if self.egocentric_frame is not None and orientation is not None:
            logits = self.egocentric_frame.world_logits(logits, orientation.view(horizon, agents))
        return logits.float(), values.float(), memory.float()

    def update_initial_weights(self) -> None:
        """Set the reference weights of the l2-init loss to the current weights."""
        self.initial_weights = {name: weight.detach().clone() for name, weight in self.named_parameters()}

    def observe_value_targets(self, targets: Tensor, decay: float) -> None:
        """Update the value head's statistics, as `ValueHead.observe` does; values do not change.

        The reference weights of the l2-init loss are rescaled too, so that they represent the same function.
        """
        scale, shift = self.value_head.observe(targets, decay)
        self.initial_weights["value_head.output.weight"] *= scale
        self.initial_weights["value_head.output.bias"] *= scale
        self.initial_weights["value_head.output.bias"] += shift

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The 2-D weights that the Muon optimizer trains: all except first layers, embeddings and output layers."""
        outputs = (self.policy_head.output, self.value_head.output)
        embeddings = [module for module in self.modules() if isinstance(module, nn.Embedding)]
        first_layers = [] if self.extra_inputs is None else [self.extra_inputs]
        excluded_modules: list[nn.Module] = [*outputs, *embeddings, *first_layers]
        excluded = {id(weight) for module in excluded_modules for weight in module.parameters()}
        excluded |= {id(weight) for weight in self.backbone.first_layer()} | {id(self.ahead)}
        return [weight for weight in self.parameters() if weight.ndim == 2 and id(weight) not in excluded]

    def add_direct_inputs(self, features: Tensor, observations: Observations) -> Tensor:
        """Add the embedded previous action, previous reward and global features to `features [agents, hidden]`."""
        inputs = self.direct_inputs
        if self.action_embedding is not None:
            features = features + self.action_embedding(inputs.previous_action(observations))
        if self.extra_inputs is not None:
            extra = [inputs.previous_reward(observations)] if self.config.use_prev_reward else []
            extra += [inputs.global_features(observations)] if self.global_features else []
            features = features + self.extra_inputs(torch.cat(extra, -1))
        return features

    def _one_step(
        self, observations: Observations, memory: Memory, episode_starts: Tensor | None, groups: Tensor | None
    ) -> tuple[Tensor, Tensor, Memory]:
        """Logits `[agents, actions]`, values `[agents]` and the memory after one step; see `forward`."""
        if episode_starts is None:
            episode_starts = torch.zeros(len(observations), dtype=torch.bool, device=observations.device)
        if isinstance(observations, Tensor):
            observations = observations.unsqueeze(0)
        of_step = None if groups is None else groups.unsqueeze(0)
        logits, values, memory = self(observations, memory, episode_starts.unsqueeze(0), groups=of_step)
        return logits[0], values[0], memory

    def _packed(self, observations: Observations, horizon: int, agents: int) -> PackedTokens:
        """The packed observations of all steps. Raises ValueError for another shape or dtype than `forward` expects."""
        if isinstance(observations, PackedTokens):
            if len(observations) != horizon * agents:
                raise ValueError(f"packed observations must be of {horizon} * {agents} agents; got {len(observations)}")
            return observations
        expected = [horizon, agents, self.spec.num_observation_tokens, 3]
        if list(observations.shape) != expected or observations.dtype != torch.uint8:
            raise ValueError(
                f"observations must be [horizon, agents, tokens, 3] = {expected} uint8; "
                f"got {list(observations.shape)} {observations.dtype}"
            )
        return PackedTokens.pack(observations.flatten(0, 1))

    def _features(self, observations: PackedTokens) -> Tensor:
        """Map observations, in the agent's frame if `egocentric`, to features `[agents, hidden]`.

        Custom processors and backbones read them padded.
        """
        tokens: PackedTokens | Tensor = observations
        capacity = self.network_spec.num_observation_tokens
        if self.observation_processor is not unchanged:
            tokens = self.observation_processor(observations.padded(capacity), self.network_spec)
        if BACKBONES.is_custom(self.config.backbone) and isinstance(tokens, PackedTokens):
            tokens = tokens.padded(capacity)
        features: Tensor = self.backbone(tokens)
        if self.ahead is not None:
            features = features + token_sums(self.ahead, self.backbone.codes.sparse_ahead(tokens))
        return self.add_direct_inputs(features, observations)

    def _autocast(self) -> AbstractContextManager[object]:
        if not self.config.dtypes_fp16:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def reads_groups(policy: Policy) -> bool:
    """Whether the values of a policy depend on the groups of the agents: see `agent.critic`."""
    return isinstance(policy, MettaAgent) and policy.config.critic != "own"


def make_agent(
    observation_space: ObservationSpace,
    action_space: ActionSpace,
    global_features: Sequence[str],
    device: torch.device | str,
    config: AgentModelConfig | None = None,
) -> MettaAgent:
    """Create an agent for environments with these spaces, with random weights from torch's global generator.

    `global_features` names token features (`spec.feature_names`) whose values at the agent's own cell are additional
    inputs that bypass the backbone. Raises UsageError if one is unknown, if the spaces are not those of an environment
    of metta, if the environment has no possible action, or if `config` does not fit the environment.
    """
    if not (isinstance(observation_space, ObservationSpace) and isinstance(action_space, ActionSpace)):
        raise UsageError(
            "make_agent takes env.single_observation_space and env.single_action_space of a MettaGridEnv, which name "
            f"its tokens and actions; got {type(observation_space).__name__} and {type(action_space).__name__}"
        )
    return MettaAgent(observation_space, action_space, global_features, device, config)
