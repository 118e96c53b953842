"""A prompt is composed of pieces, each of which decides one part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dp_bench.profiling import stage
from dp_bench.prompts import catalogue
from dp_bench.prompts.deep import DeepGenerated
from dp_bench.prompts.estimators import SCORE, forwards, gumbel
from dp_bench.prompts.init import initialiser
from dp_bench.prompts.inputs import SelectorInput
from dp_bench.prompts.late import Late
from dp_bench.prompts.layers import Layers
from dp_bench.prompts.selectors import Fixed, Selector
from dp_bench.prompts.text import Text
from dp_bench.prompts.vectors import Routed, Vectors
from dp_bench.randomness import fork
from dp_bench.settings import Estimator, PromptSettings, SplitOrder
from dp_bench.types import Dims, PromptOutput


class Prompt(nn.Module):
    """Decide for each example the vectors, how many are used, how many stand before the text, and the keys
    and values of each layer."""

    def __init__(
        self,
        *,
        num_tokens: int,
        position: Selector,
        length: Selector,
        vectors: Vectors,
        layers: Layers | Late | DeepGenerated | None = None,
        route: Selector | None = None,
        text: Text | None = None,
        is_inside: bool = False,
        estimator: Estimator = Estimator.gumbel_st,
        input: SelectorInput | None = None,
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.position = position
        self.length = length
        self.vectors = vectors
        self.layers = layers
        self.is_observing = True
        self.route = route  # which member of routed vectors
        self.text = text  # changes the embeddings of the text
        self.is_inside = is_inside  # outcomes of the position are places inside the text
        self.estimator = estimator
        self.input = input  # transforms summaries before any piece reads them
        for selector in self.selectors.values():
            selector.use(estimator)

    @property
    def selectors(self) -> Mapping[str, Selector]:
        """Return the selectors by the part that each decides."""
        route = {} if self.route is None else {"route": self.route}
        return {"position": self.position, "length": self.length, **route}

    @property
    def pieces(self) -> list[Selector | Vectors]:
        """Return the vectors and the selectors."""
        return [self.vectors, *self.selectors.values()]

    @property
    def learned_selectors(self) -> list[str]:
        """Return the names of the selectors that are trained."""
        return [name for name, selector in self.selectors.items() if selector.is_learned]

    @property
    def forwards(self) -> int:
        """Return how many forward passes an update takes."""
        outcomes = [self.selectors[name].num_outcomes for name in self.learned_selectors]
        return forwards(max(outcomes), self.estimator) if outcomes else 1

    @property
    def needs_summary(self) -> bool:
        """Return whether a piece reads the summary of an example."""
        return any(piece.needs_summary for piece in self.pieces)

    @property
    def needs_task(self) -> bool:
        """Return whether the prompt of an example depends on its task."""
        return any(piece.needs_task for piece in self.pieces)

    @property
    def needs_skill(self) -> bool:
        """Return whether the prompt of an example depends on the sub-skill that the data gives it."""
        return any(selector.needs_skill for selector in self.selectors.values())

    def selector_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that only decide which prompt an example gets."""
        return [p for selector in self.selectors.values() for p in selector.parameters()] + (
            self.vectors.selector_parameters()
        )

    def network_parameters(self) -> list[nn.Parameter]:
        """Return the weights of the networks in pieces."""
        text = [] if self.text is None else list(self.text.parameters())
        late = self.layers.network_parameters() if isinstance(self.layers, Late) else []
        return self.vectors.network_parameters() + late + text

    def transform(self, summary_BD: Tensor | None) -> Tensor | None:
        """Return the input of the selectors, which is made from the frozen summary: [B,D]."""
        return summary_BD if self.input is None or summary_BD is None else self.input(summary_BD)

    @stage("prompt")
    def forward(
        self,
        summary_BD: Tensor | None,
        task_B: Tensor,
        noise: Mapping[str, Tensor],
        temperature: float,
        skill_B: Tensor | None = None,
    ) -> PromptOutput:
        """Decide for a batch. `noise` maps each selector that draws to its Gumbel noise [B,X]; only oracles
        read `skill_B`."""
        summary_BD = self.transform(summary_BD)
        drawn = {
            name: selector(
                summary_BD,
                skill_B if selector.needs_skill else task_B,
                noise.get(name),
                temperature,
            )
            for name, selector in self.selectors.items()
        }
        before_BJ, length_BJ = drawn["position"], drawn["length"]
        if isinstance(self.vectors, Routed):
            made = self.vectors.select(drawn["route"])
        else:
            made = self.vectors(summary_BD, task_B)
        vectors_BPD, weights_BK, loss, used_BP = made
        for name, selector in self.selectors.items():
            added = selector.added_loss(drawn[name], summary_BD, task_B, noise.get(name))
            loss = loss if added is None else added if loss is None else loss + added
        all_kept = isinstance(self.length, Fixed) and self.length.outcome == self.num_tokens
        keep_BP = None if all_kept else _keep(length_BJ)
        layers = None if self.layers is None else self.layers(len(task_B), keep_BP)
        in_input = keep_BP if vectors_BPD.shape[1] else None
        if used_BP is not None:
            in_input = used_BP if in_input is None else in_input * used_BP
        with_noise = {name: drawn[name] for name in noise}
        log_prob_B = self._log_prob(with_noise, summary_BD, task_B)
        seen = {
            name: (summary_BD, chosen_BJ)
            for name, chosen_BJ in with_noise.items()
            if summary_BD is not None and self.selectors[name].observes
        }
        decided = (vectors_BPD, before_BJ, in_input, weights_BK, layers, loss, log_prob_B, seen)
        return PromptOutput(*decided, self.is_inside)

    def begin_update(self, step: int, max_steps: int) -> None:
        """Prepare the selectors for update `step`, counted from 0."""
        for selector in self.selectors.values():
            selector.begin_update(step, max_steps)

    def observe(self, output: PromptOutput, loss_B: Tensor) -> None:
        """Pass losses to the selectors that learn from them, unless `is_observing` is False."""
        if not self.is_observing:
            return
        for name, (summary_BD, chosen_BJ) in output.seen.items():
            self.selectors[name].observe(summary_BD, chosen_BJ, loss_B)

    def end_update(self) -> None:
        """Let selectors that learn from losses do so."""
        for selector in self.selectors.values():
            selector.end_update()

    def _log_prob(
        self, drawn: Mapping[str, Tensor], summary_BD: Tensor | None, task_B: Tensor
    ) -> Tensor | None:
        """Return the log-probability [B] of the learned outcomes, where the estimator needs it."""
        if self.estimator not in SCORE:
            return None
        scores = [
            self.selectors[name].log_prob(chosen_BJ, summary_BD, task_B)
            for name, chosen_BJ in drawn.items()
            if self.selectors[name].is_learned
        ]
        return sum(scores[1:], scores[0]) if scores else None

    def draw_noise(
        self, num_rows: int, generator: torch.Generator, *, selectors: list[str]
    ) -> dict[str, Tensor]:
        """Draw standard Gumbel noise [M,X] for the named selectors, X as in `Selector.noise_columns`."""
        shapes = {name: (num_rows, self.selectors[name].noise_columns) for name in selectors}
        return {name: gumbel(shape, generator) for name, shape in shapes.items()}

    def noisy_selectors(self, *, training: bool, sample_at_eval: bool) -> list[str]:
        """Return the names of the selectors that draw: in training all that can, at evaluation only the
        random controls unless `sample_at_eval`."""
        draws_now = training or sample_at_eval
        return [n for n, s in self.selectors.items() if s.needs_noise and (draws_now or s.noise_at_eval)]


def _keep(length_BJ: Tensor) -> Tensor:
    """Return 1 for vector i where the length exceeds i, else 0: [B,P], a reversed cumulative sum."""
    return length_BJ.flip(-1).cumsum(-1).flip(-1)[:, 1:]


def build(
    settings: PromptSettings,
    order: SplitOrder,
    seed: int,
    dims: Dims,
    embedding_VD: Tensor | None,
    first_ids: Sequence[int] = (),
) -> Prompt:
    """Build the prompt that settings describe.

    `embedding_VD` is the table of vocabulary initialisation; None serves for `init=uniform`. `first_ids` are
    the tokens of `init=text` and `init=label_words`. Raises UserError for a piece outside the catalogue, or
    layers that name no attention of the backbone.
    """
    position, length, vectors, layers, route, text = (
        catalogue.build(getattr(settings, p)) for p in catalogue.PARTS
    )
    assert position is not None and length is not None and vectors is not None
    init = initialiser(settings.init, dims, embedding_VD, first_ids)
    in_layers = catalogue.of(settings.layers)
    shares = in_layers is not None and in_layers.shares_generator
    with fork(seed, "prompt"):
        # Vectors that are not in the input have no position in it.
        in_input = 0 if settings.in_layers_alone else settings.num_tokens
        prompt = Prompt(
            num_tokens=settings.num_tokens,
            position=position(settings.boundaries or in_input + 1, dims),
            length=length(settings.num_tokens + 1, dims),
            vectors=(built := vectors(settings.num_tokens, dims, init)),
            layers=None
            if layers is None
            else layers(settings.num_tokens, dims, *([built] if shares else [])),
            route=None if route is None else route(built.num_prompts, dims),
            text=None if text is None else text(dims),
            is_inside=settings.boundaries is not None,
            estimator=settings.estimator or Estimator.gumbel_st,
            input=_input(settings, dims),
        )
    if isinstance(prompt.position, Fixed) and order is SplitOrder.code:
        # Configured as in the paper, by the vectors before the text; the authors' code counts those behind.
        prompt.position.outcome = in_input - prompt.position.outcome
    return prompt


def _input(settings: PromptSettings, dims: Dims) -> SelectorInput | None:
    if not (settings.standardise or settings.erase_label):
        return None
    standardise, erase_label = bool(settings.standardise), bool(settings.erase_label)
    return SelectorInput(dims.summary_width, standardise=standardise, erase_label=erase_label)
