"""Routes: a selector fitted to losses, members chosen for each text, and what is measured of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIXTURES, make_batch
from helpers.configs import problems
from helpers.prompts import build_prompt
from helpers.records import make_record
from safetensors.torch import load_file
from sklearn import linear_model, metrics
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from dp_bench import config, ranks, run, trainer
from dp_bench.backbones.backbone import Backbone
from dp_bench.config import Experiment
from dp_bench.diagnostics import explained, purity
from dp_bench.model import PromptedModel
from dp_bench.objective import objective
from dp_bench.optim import parameter_groups
from dp_bench.prompts.ridge import Ridge
from dp_bench.records import RunRecord
from dp_bench.report.build import build_tables
from dp_bench.report.routes import adjusted_rand
from dp_bench.report.sheet import SheetOptions, make_sheet
from dp_bench.settings import Estimator, SplitOrder, Summary
from dp_bench.types import Batch, Dims, UserError
from dp_bench.verbalizer import LabelWords

WIDTH, K = 6, 3
QUICK = ("trainer.max_steps=4", "trainer.eval_every=2", "trainer.batch_size=4", "prompt.num_tokens=4")
OFTEN = ("prompt.route.refit_every=1",)


def make_ridge(number: int = K, **settings: Any) -> Ridge:
    return Ridge(number, Dims(width=8, vocab_size=10, summary_width=WIDTH), **settings)


def feedback(rows: int = 200, seed: int = 0, number: int = K) -> tuple[Tensor, Tensor]:
    """Return inputs and the losses of every outcome, which depend on them linearly, with noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, WIDTH, generator=generator) * torch.arange(1, WIDTH + 1)
    slopes = torch.randn(WIDTH, number, generator=generator)
    return x, x @ slopes + torch.arange(number) + 0.1 * torch.randn(rows, number, generator=generator)


def bandit(ridge: Ridge, x: Tensor, losses: Tensor, seed: int = 0, *, share_done: float = 1.0) -> Tensor:
    """Let it see the loss of one outcome a row, and fit; return what was drawn."""
    drawn = torch.randint(0, losses.shape[1], (len(x),), generator=torch.Generator().manual_seed(seed))
    ridge.observe(x, one_hot(drawn, losses.shape[1]).float(), losses.gather(1, drawn[:, None])[:, 0])
    ridge.end_update()
    ridge.share_done = share_done
    ridge.refit()
    return drawn


@pytest.mark.parametrize("balanced", [True, False])
def test_its_logits_are_the_gains_that_a_ridge_regression_predicts(balanced: bool) -> None:
    x, losses = feedback()
    ridge = make_ridge(balanced=balanced, ridge=0.3, fit_until=1.1)
    drawn = bandit(ridge, x, losses)
    gains = []
    for outcome in range(K):
        own = drawn == outcome
        centred = (x[own] - x[own].mean(0)).double()
        penalty = 0.3 * float(centred.square().sum()) / WIDTH
        oracle = linear_model.Ridge(alpha=penalty, solver="cholesky").fit(x[own], losses[own, outcome])
        gains.append(-oracle.predict(x))
    gain = torch.from_numpy(np.stack(gains, axis=1)).double()
    gain = gain - (gain.mean(0) if balanced else 0)
    gain = gain - gain.mean(1, keepdim=True)
    logits = ridge.logits(x, torch.zeros(len(x))).double()
    logits = logits - logits.mean(1, keepdim=True)
    torch.testing.assert_close(logits, 6 * gain / gain.std(correction=0), atol=2e-3, rtol=1e-3)
    best = losses.argmin(1) if not balanced else (losses - losses.mean(0)).argmin(1)
    assert (logits.argmax(1) == best).float().mean() > 0.9


def test_all_losses_of_a_text_are_regressed_as_their_differences() -> None:
    """Full feedback against the closed form on the differences from the members' mean."""
    x, losses = feedback()
    ridge = make_ridge(fit_until=1.1)
    ridge.use(Estimator.exact)
    for outcome in range(K):
        ridge.observe(x, one_hot(torch.full((len(x),), outcome), K).float(), losses[:, outcome])
    ridge.end_update()
    ridge.share_done = 1.0
    ridge.refit()
    centred = (x - x.mean(0)).double()
    difference = (losses.mean(1, keepdim=True) - losses).double()
    penalty = 0.3 * centred.square().sum() / WIDTH * torch.eye(WIDTH)
    weights = torch.linalg.solve(centred.T @ centred + penalty, centred.T @ (difference - difference.mean(0)))
    gain = centred @ weights
    torch.testing.assert_close(
        ridge.logits(x, torch.zeros(len(x))).double(), 6 * gain / gain.std(correction=0), atol=2e-3, rtol=1e-3
    )


def test_members_of_a_balanced_route_share_the_texts() -> None:
    x, losses = feedback()
    losses = losses + 100.0 * torch.arange(K)  # one of them looks best for all
    shares = {}
    for balanced in (True, False):
        ridge = make_ridge(balanced=balanced, fit_until=1.1)
        bandit(ridge, x, losses)
        shares[balanced] = ridge.logits(x, torch.zeros(len(x))).softmax(1).mean(0)
    assert shares[True].min() > 0.2 and shares[False][0] > 0.9


def test_it_forgets_what_it_saw_before_its_window_and_knows_nothing_at_first() -> None:
    (x, losses), (_, others) = feedback(), feedback(seed=1)
    fresh, worn = make_ridge(window=200, fit_until=1.1), make_ridge(window=200, fit_until=1.1)
    assert not fresh.logits(x, torch.zeros(1)).any()
    bandit(worn, x, others)
    for ridge in (fresh, worn):
        bandit(ridge, x, losses)
    torch.testing.assert_close(fresh.weight_JD, worn.weight_JD)
    assert int(worn.number_seen) == 400
    narrow = make_ridge(window=50, fit_until=1.1)  # less than one update brings
    bandit(narrow, x, losses)
    assert torch.equal(narrow.inputs_ND, x[-50:])


def test_an_outcome_that_was_never_seen_promises_what_an_average_one_does() -> None:
    x, losses = feedback(number=2)
    ridge = make_ridge(balanced=False, fit_until=1.1)
    drawn = torch.arange(len(x)) % 2
    chosen = one_hot(drawn, K).float()
    seen = losses.gather(1, drawn[:, None])[:, 0]
    ridge.observe(x, chosen, seen)
    ridge.end_update()
    ridge.refit()
    gains = torch.full((len(x), K), -float(seen.mean()), dtype=torch.float64)
    for outcome in (0, 1):
        own = drawn == outcome
        penalty = 0.3 * float((x[own] - x[own].mean(0)).square().sum()) / WIDTH
        oracle = linear_model.Ridge(alpha=penalty).fit(x[own], seen[own])
        gains[:, outcome] = -torch.from_numpy(oracle.predict(x))
    gains = gains - gains.mean(1, keepdim=True)
    logits = ridge.logits(x, torch.zeros(1)).double()
    torch.testing.assert_close(logits, gains / gains.std(correction=0), atol=2e-3, rtol=1e-3)


def test_it_draws_what_it_believes_in_and_now_and_then_anything() -> None:
    ridge = make_ridge(explore=0.3)
    with torch.no_grad():
        ridge.bias_J.copy_(torch.tensor([50.0, 0.0, 0.0]))
    noise = -torch.empty(30_000, K).exponential_(generator=torch.Generator().manual_seed(0)).log()
    x, task = torch.zeros(30_000, WIDTH), torch.zeros(30_000, dtype=torch.long)
    shares = ridge(x, task, noise, 1.0).mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.8, 0.1, 0.1]), atol=0.01, rtol=0)
    assert torch.equal(ridge(x[:5], task[:5], None, 1.0).argmax(1), torch.zeros(5, dtype=torch.long))


def test_sharpness_rises_and_the_fit_ends_where_it_is_told_to() -> None:
    x, losses = feedback()
    ridge = make_ridge(sharpness=[1.0, 5.0], sharpen_until=0.5, fit_until=0.8, window=200)
    for share, expected in ((0.0, 1.0), (0.25, 3.0), (0.5, 5.0), (0.75, 5.0)):
        bandit(ridge, x, losses, share_done=share)
        assert float(ridge.logits(x, x[:, 0]).std(correction=0)) == pytest.approx(expected, rel=1e-3)
        assert not ridge.logits(x, x[:, 0]).requires_grad
    ridge.begin_update(8, 10)
    assert not ridge.closed_form and ridge.logits(x, x[:, 0]).requires_grad
    before = ridge.weight_JD.clone()
    ridge.observe(x, one_hot(torch.zeros(len(x), dtype=torch.long), K).float(), losses[:, 0])
    ridge.end_update()
    assert torch.equal(before, ridge.weight_JD) and ridge._new == []


def test_ranks_fit_to_what_all_of_them_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    x, losses = feedback()
    alone, one = make_ridge(refit_every=1), make_ridge(refit_every=1)
    chosen = one_hot(torch.arange(len(x)) % K, K).float()
    seen = (losses * chosen).sum(1)
    alone.observe(x, chosen, seen)
    alone.end_update()
    elsewhere = [(x[100:], chosen[100:].argmax(1), seen[100:])]
    monkeypatch.setattr(ranks, "size", lambda: 2)
    monkeypatch.setattr(ranks, "from_all", lambda value: [value, elsewhere])
    one.observe(x[:100], chosen[:100], seen[:100])
    one.end_update()
    assert torch.equal(alone.weight_JD, one.weight_JD) and alone.weight_JD.any()


# ---------------------------------------------------------------------------------------------- on a model


def make_model(backbone: Backbone, *words: str) -> PromptedModel:
    experiment = config.build(config.compose(["data.dir=.", "prompt.num_tokens=2", *words]))
    made = build_prompt(experiment, backbone.dims, backbone.embedding_VD).double()
    verbalizer = LabelWords(["no", "yes"], backbone.tokenizer)
    return PromptedModel(backbone, made, [verbalizer], order=SplitOrder.paper, summary=Summary.encoder_mean)


def texts(**more: Any) -> Batch:
    summaries = torch.randn(3, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    return replace(make_batch([7, 5, 9]), summary_BD=summaries, **more)


def asked_for(*outcomes: int, number: int = K) -> dict[str, Tensor]:
    return {"route": 1e9 * one_hot(torch.tensor(outcomes), number).double()}


THREE = ("prompt.vectors.num_prompts=3", "prompt.standardise=null", "prompt.erase_label=null")


def test_a_text_has_its_member_whole_and_no_other_learns_from_it(
    make_backbone: Callable[..., Backbone],
) -> None:
    model = make_model(make_backbone(torch.float64), "prompt=routed", *THREE)
    batch = texts(noise=asked_for(2, 0, 2))
    members = model.prompt.vectors.prompts_KPD
    assert isinstance(members, Tensor)
    made = model.prompt(batch.summary_BD, batch.task_B, batch.noise, 1.0)
    assert torch.equal(made.vectors_BPD, members[[2, 0, 2]])
    objective(model, model.prompt, batch, 1.0).to_minimise.backward()
    assert members.grad is not None
    assert members.grad[0].any() and members.grad[2].any() and not members.grad[1].any()
    assert model.prompt.route is not None and model.prompt.route.weight_JD.grad is None


def losses_of_all(model: PromptedModel) -> Tensor:
    """Return the loss of every member for every text, [3,K], in passes of their own."""
    rows = [
        cross_entropy(model(texts(noise=asked_for(k, k, k))).logits_BC, texts().label_B, reduction="none")
        for k in range(K)
    ]
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("estimator", ["exact", "mixture"])
@pytest.mark.parametrize("route", ["instance", "ridge"])
def test_what_all_members_say_is_weighed_by_the_route(
    make_backbone: Callable[..., Backbone], estimator: str, route: str
) -> None:
    """Against the formula over the losses of separate passes, with the gradients of every parameter."""
    words = ("prompt=routed", f"prompt/route={route}", f"prompt.estimator={estimator}", *THREE)
    model = make_model(make_backbone(torch.float64), *words)
    chooser = model.prompt.route
    assert chooser is not None
    with torch.no_grad():
        for parameter in chooser.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    batch = texts(noise={"route": torch.zeros(3, K, dtype=torch.float64)})
    goal = objective(model, model.prompt, batch, 1.0)
    losses = losses_of_all(model)
    shares = chooser.logits(batch.summary_BD, batch.task_B).softmax(1)
    expected = (shares * losses).sum(1).mean()
    likelihood = -(shares * torch.exp(-losses)).sum(1).log().mean()
    is_mixture = estimator == "mixture" and route == "instance"
    torch.testing.assert_close(goal.loss, expected.detach())
    torch.testing.assert_close(goal.to_minimise, likelihood if is_mixture else expected)
    parameters = [p for p in model.prompt.parameters() if p.requires_grad]
    got = torch.autograd.grad(goal.to_minimise, parameters, allow_unused=True)
    wanted = torch.autograd.grad(likelihood if is_mixture else expected, parameters, allow_unused=True)
    for one, other in zip(got, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other)


def test_what_is_observed_is_the_loss_of_what_was_drawn(make_backbone: Callable[..., Backbone]) -> None:
    words = ("prompt=routed_position", *THREE)
    model = make_model(make_backbone(torch.float64), *words)
    prompt = model.prompt
    batch = texts(
        noise={**asked_for(1, 2, 0), "position": 1e9 * one_hot(torch.tensor([2, 0, 1]), 3).double()}
    )
    goal = objective(model, prompt, batch, 1.0)
    prompt.end_update()
    loss = cross_entropy(model(batch).logits_BC, batch.label_B, reduction="none").detach()
    torch.testing.assert_close(goal.loss, loss.mean())
    assert isinstance(prompt.route, Ridge) and isinstance(prompt.position, Ridge)
    for chooser, outcomes in ((prompt.route, [1, 2, 0]), (prompt.position, [2, 0, 1])):
        assert chooser.outcomes_N[:3].tolist() == outcomes and int(chooser.number_seen) == 3
        torch.testing.assert_close(chooser.losses_N[:3], loss.double())
        torch.testing.assert_close(chooser.inputs_ND[:3], batch.summary_BD)
        assert chooser.losses_N[3:].isnan().all()


def test_what_chooses_may_have_a_learning_rate_of_its_own(backbone: Backbone) -> None:
    model = make_model(backbone, "prompt=dynamic")
    prompt = model.prompt
    everything = [p for p in prompt.parameters() if p.requires_grad]
    assert parameter_groups(everything, (prompt.selector_parameters(), None)) is everything
    others, selectors = parameter_groups(everything, (prompt.selector_parameters(), 0.03))
    assert isinstance(others, dict) and isinstance(selectors, dict) and selectors["lr"] == 0.03
    names = {id(p): name for name, p in prompt.named_parameters()}
    assert [names[id(p)] for p in others["params"]] == ["vectors.prompts_KPD"]
    assert {names[id(p)].split(".")[0] for p in selectors["params"]} == {"position", "vectors"}


# ---------------------------------------------------------------------------------------------- whole runs


class StoppedError(RuntimeError):
    """The process is gone."""


@pytest.mark.parametrize(
    "words",
    [
        ("prompt=routed", *OFTEN),
        ("prompt=routed_mixture", *OFTEN),
        ("prompt=routed_position", *OFTEN, "prompt.position.refit_every=1"),
        ("prompt=routed_full", *OFTEN, "trainer.micro_batch_size=2"),
    ],
)
def test_a_run_that_is_resumed_goes_on_as_if_it_had_never_stopped(
    experiment: Callable[..., Experiment],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    whole = run.run(experiment(*words, *QUICK))
    checkpoint = trainer.Trainer._checkpoint

    def stop(self: trainer.Trainer) -> None:
        checkpoint(self)
        raise StoppedError

    elsewhere = experiment(*words, *QUICK, f"results_dir={tmp_path / 'other'}")
    monkeypatch.setattr(trainer.Trainer, "_checkpoint", stop)
    with pytest.raises(StoppedError):
        run.run(elsewhere)
    monkeypatch.setattr(trainer.Trainer, "_checkpoint", checkpoint)
    resumed = run.run(elsewhere)
    assert resumed.run_id == whole.run_id and resumed.score == whole.score
    first, second = (
        load_file(folder / "runs" / whole.run_id / "prompt.safetensors")
        for folder in (tmp_path / "results", tmp_path / "other")
    )
    assert first.keys() == second.keys() and "route.inputs_ND" in first
    assert all(torch.equal(first[name], second[name]) or name.endswith("losses_N") for name in first)
    assert all(
        np.array_equal(first[name].numpy(), second[name].numpy(), equal_nan=True)
        for name in first
        if name.endswith("losses_N")
    )


def test_micro_batches_see_what_the_whole_batch_sees(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    words = ("prompt=routed", *OFTEN, *QUICK, "trainer.bucket_batches=1")
    found = []
    for size in (4, 2):
        record = run.run(experiment(*words, f"trainer.micro_batch_size={size}"))
        found.append(load_file(tmp_path / "results" / "runs" / record.run_id / "prompt.safetensors"))
    for name in ("route.inputs_ND", "route.outcomes_N", "vectors.prompts_KPD", "route.weight_JD"):
        torch.testing.assert_close(found[0][name], found[1][name], atol=1e-4, rtol=1e-3)


def test_regimes_and_estimators_compose_with_routes(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    several = ("regime=multitask", "regime.tasks=[rte,cb]")
    for words in (
        ("regime=fewshot", "regime.shots=3", "prompt=routed"),
        (*several, "prompt=routed_mixture", *OFTEN),
        (*several, "prompt=oracle_route", "prompt.route.group=task"),
        ("prompt=routed", "prompt/route=instance", "prompt.estimator=leave_one_out"),
        ("prompt=routed", "prompt/route=instance", "prompt/position=instance", "prompt.estimator=reinforce"),
        ("prompt=random_route",),
        ("prompt=shuffled_route", *OFTEN),
        ("prompt=ridge_position", "prompt.position.refit_every=1"),
    ):
        record = run.run(experiment(*words, *QUICK))
        assert record.num_updates == 4, words
        if "prompt=oracle_route" in words:
            assert record.diagnostics["route_purity_task"] == 1.0
            assert record.diagnostics["route_lambda_task"] == 1.0


def test_a_record_says_where_routes_led(experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    record = run.run(experiment("prompt=routed", *OFTEN, *QUICK))
    routes = record.routes.split()
    assert len(routes) == record.num_examples["report"] and set(routes) <= {"0", "1"}
    for name in ("shuffled_input_score", "random_route_score", "route_purity_label", "route_entropy"):
        assert name in record.diagnostics
    history = (tmp_path / "results" / "runs" / record.run_id / "metrics.jsonl").read_text().splitlines()
    assert all(sum(json.loads(line)["route_counts"]) == record.num_examples["select"] for line in history)
    assert run.run(experiment("prompt=fixed", *QUICK)).routes == ""
    assert run.run(experiment("prompt=pool", *QUICK)).routes != ""


def with_skills(folder: Path) -> Path:
    """Write the fixtures' RTE again, every other row with another sub-skill."""
    (folder / "RTE").mkdir(parents=True)
    for path in (FIXTURES / "RTE").glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [json.dumps({**row, "skill": number % 2}) for number, row in enumerate(rows)]
        (folder / "RTE" / path.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_an_oracle_routes_by_the_sub_skill_that_the_data_names(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="needs the sub-skill of each example"):
        run.run(experiment("prompt=oracle_route", *QUICK))
    record = run.run(experiment("prompt=oracle_route", *QUICK, f"data.dir={with_skills(tmp_path / 'data')}"))
    routes = record.routes.split()
    assert routes == [str(number % 2) for number in range(len(routes))]
    assert record.diagnostics["route_lambda_skill"] == 1.0


# ---------------------------------------------------------------------------------------------- measures


def test_purity_and_what_a_route_explains() -> None:
    route = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    label = np.array([1, 1, 0, 0, 0, 0, 0, 1])
    nothing = np.zeros(8, dtype=np.int64)
    assert purity([(route, label)]) == 6 / 8
    assert explained([(route, label)]) == pytest.approx((6 - 5) / (8 - 5))
    assert explained([(nothing, label)]) == 0.0
    assert explained([(label, label)]) == 1.0 and explained([(1 - label, label)]) == 1.0
    assert explained([(route, nothing)]) == 0.0
    # A route that knows the task and nothing else knows no label.
    assert explained([(nothing, label), (nothing + 1, 1 - label)]) == 0.0
    both = explained([(route, label), (label, label)])
    assert both == pytest.approx((6 + 8 - 5 - 5) / (16 - 10))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prompt=pool", "prompt/route=ridge"], "and prompt=adap_ins_vec has none"),
        (["prompt=fixed", "prompt/vectors=routed"], "add prompt/route=ridge"),
        (
            ["prompt=routed", "prompt.route.explore=2"],
            "prompt.route.explore=2 must be a number from 0 and at",
        ),
        (["prompt=routed", "prompt.route.ridge=0"], "prompt.route.ridge=0 must be a number above 0"),
        (["prompt=routed", "prompt.route.window=0"], "prompt.route.window=0 must be at least 1"),
        (["prompt=routed", "prompt.route.sharpness=[1]"], "must be two numbers"),
        (["prompt=ridge_position", "prompt.position.fit_until=0"], "prompt.position.fit_until=0"),
        (["prompt=oracle_route", "prompt.route.group=word"], "must be task or skill"),
        (["prompt=routed_position", "prompt.estimator=exact"], "position and route are learned"),
        (["prompt=fixed", "prompt.shuffle_input=true"], "has no selector with input"),
        (["prompt=routed", "prompt.selector_lr=-1"], "prompt.selector_lr=-1"),
        (["prompt=routed", "protocol=authors"], "use protocol=clean"),
    ],
)
def test_what_has_no_meaning_is_refused(words: list[str], said: str) -> None:
    assert any(said in problem for problem in problems(*words)), problems(*words)


def test_agreement_of_seeds_is_the_adjusted_rand_index() -> None:
    rng = np.random.default_rng(0)
    for number in (1, 2, 4):
        one, other = rng.integers(number, size=60), rng.integers(3, size=60)
        other[:30] = one[:30]
        assert adjusted_rand(one, other) == pytest.approx(metrics.adjusted_rand_score(one, other))
    assert adjusted_rand(one, 3 - one) == 1.0


def test_tables_flag_a_route_that_knows_the_answer(tmp_path: Path) -> None:
    def routed(prompt: str, seed: int, label: float, routes: str) -> RunRecord:
        own = make_record(f"prompt={prompt}", f"seed={seed}", score=80.0)
        found = {"route_lambda_label": label, "route_lambda_skill": 0.7}
        return replace(own, diagnostics=found, routes=routes)

    runs = [routed("adap_ins_vec", seed, 0.6, "0 1 0 1") for seed in (0, 1)]
    runs += [
        routed("routed", seed, 0.1, routes)
        for seed, routes in ((0, "0 1 1 0"), (1, "1 0 0 1"), (2, "1 1 1 1"))
    ]
    (table,) = build_tables(runs)
    sheet = make_sheet(table, SheetOptions(columns=["routes"]))
    cells = {line[0].text: (line[1].text, line[-1].text) for line in sheet.lines}
    assert cells["adap_ins_vec"][0].endswith("§") and not cells["routed"][0].endswith("§")
    assert cells["routed"][1] == ("label 0.10, skill 0.70, seeds 1.00, 1 of 3 runs use one member")
    (note,) = [note for note in sheet.notes if "routes by the answer" in note]
    assert "60 % (adap_ins_vec on " in note and "routed on" not in note
