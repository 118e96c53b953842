"""Every YAML file can be chosen, composes, and says of itself what it is and how it is run."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from helpers.configs import problems
from hydra._internal.utils import get_args_parser

from dp_bench import cli, config, records
from dp_bench.checks.ranges import RANGES
from dp_bench.config import GROUPS
from dp_bench.methods import table
from dp_bench.settings import RunSettings, SeedSettings
from dp_bench.sweep.expand import axes_of, expand
from dp_bench.types import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
TASKS = ("axb", "axg", "boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")
PROMPTS = (
    *("adap_ins_len", "adap_ins_pos", "adap_ins_vec", "adap_ins_vec_pos", "adap_len", "adap_pos"),
    *("adap_pos_ins_vec", "dynamic", "fixed", "postfix", "random_position", "split"),
    *("bitfit", "bottleneck", "fine_tuning", "linear_probe", "lora", "majority", "zero_shot"),
    *("best_template", "calibrated", "in_context"),
    *("prefix_tuning", "p_tuning", "p_tuning_v2", "pool", "l2p_pool", "multitask", "mpt"),
    *("fixed_kp", "uniform_pool", "routed", "routed_full", "routed_mixture", "mixture", "random_route"),
    *("shuffled_route", "oracle_route", "ridge_position", "routed_position"),
    *(
        "idpg",
        "idpg_phm",
        "m_idpg",
        "m_idpg_phm",
        "residual",
        "low_rank",
        "normalised",
        "attempt",
        "smop",
        "dept",
    ),
    *("inside", "inside_task", "random_inside", "lpt", "lpt_generated", "lpt_pooled", "xprompt"),
)
SIZES = ("small", "base", "large", "xl", "xxl")
BACKBONES = {
    "local",
    "t5_tiny_random",
    *(f"{family}_{size}" for family in ("t5", "flan_t5") for size in SIZES),
    *("bert_base", "bert_large", "roberta_base", "roberta_large", "albert_base", "minilm"),
    *("gpt2", "gpt2_medium", "opt_125m", "opt_350m", "opt_1_3b", "qwen2_0_5b", "qwen3_0_6b"),
    *("llama_3_2_1b", "t5_micro", "bert_tiny_random", "gpt2_tiny_random", "llama_tiny_random"),
}
# A file that gets lost is noticed here; a new one is added here.
EXACT = {
    "task": set(TASKS),
    "prompt": set(PROMPTS),
    "prompt/position": {"fixed", "task", "instance", "random", "ridge"},
    "prompt/length": {"fixed", "task", "instance", "random"},
    "prompt/vectors": {
        *("single", "pool", "none", "reparameterised", "uniform_pool", "similarity_pool", "keyed_pool"),
        *(
            "task_pool",
            "task_factor",
            "routed",
            "generated",
            "generated_phm",
            "residual",
            "low_rank",
            "normalised",
        ),
        "source_attention",
        "pruned",
    },
    "prompt/layers": {"table", "mlp", "late", "late_generated", "late_pooled", "deep_generated"},
    "prompt/route": {"ridge", "instance", "random", "known", "router"},
    "prompt/text": {"low_rank_update"},
    "prompt/adapters": {"lora", "bottleneck", "bitfit"},
    "regime": {"full", "fewshot", "multitask", "reptile"},
    "protocol": {"clean", "authors"},
    "hpo": {"lr", "rates"},
}
AT_LEAST: dict[str, set[str]] = {
    "backbone": BACKBONES,
    "data": {"superglue", "micro"},
    "trainer": {"default", "smoke", "micro", "minilm"},
    "experiment": {
        *("paper/position", "paper/length", "paper/prompt", "paper/fewshot", "paper/multitask"),
        *("micro/position", "micro/length", "micro/prompt", "micro/fewshot", "micro/multitask"),
        *("controls", "micro/controls", "families", "minilm/full", "minilm/fewshot"),
        *(
            "routing/mixtures",
            "routing/twice",
            "routing/compute",
            "routing/size",
            "routing/plain",
            "routing/members",
        ),
    },
}
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if not path.name.startswith("_"))


def resolved(*overrides: str, extra_dir: Path | None = None) -> dict[str, Any]:
    return config.build(config.compose(overrides, extra_dir)).resolved


def test_the_numbers_of_files_are_known() -> None:
    assert len(EXACT["task"]) == 10
    assert len(EXACT["prompt"]) == 57
    assert len(BACKBONES) == 30
    assert {*EXACT, *AT_LEAST} == set(GROUPS)
    for group, names in EXACT.items():
        assert set(config.options(group)) == names
    for group, names in AT_LEAST.items():
        assert set(config.options(group)) >= names


def test_every_file_is_an_option() -> None:
    options = {CONFIGS / group / f"{name}.yaml" for group in GROUPS for name in config.options(group)}
    launchers = {CONFIGS / "hydra" / "launcher" / f"{name}.yaml" for name in ("slurm_gpu", "local_jobs")}
    assert options | {CONFIGS / "train.yaml"} | launchers == set(FILES)


def is_fitted_to_data(prompt: str) -> bool:
    # Read from its files, which takes no time; that Hydra composes the same is tested below.
    return bool(config.option_settings("prompt", prompt).get("standardise"))


@pytest.mark.parametrize("protocol", ["clean", "authors"])
def test_every_prompt_builds_on_every_kind_of_task(protocol: str) -> None:
    """No code knows a task by its name: the next test builds every task."""
    prompts = [name for name in PROMPTS if protocol == "clean" or not is_fitted_to_data(name)]
    check_that_all_build(one_of_each_kind(), [name for name in prompts if not needs_more(name)], protocol)


def test_every_task_builds() -> None:
    check_that_all_build(TASKS, ["fixed", "dynamic", "majority", "fine_tuning"], "clean")


def check_that_all_build(tasks: Sequence[str], prompts: Sequence[str], protocol: str) -> None:
    words = (f"task={','.join(tasks)}", f"prompt={','.join(prompts)}", f"protocol={protocol}")
    (axes,) = axes_of(words, None)
    built = [choice.experiment.resolved for choice in expand(axes, None)]
    made = [tuple(content[group]["name"] for group in ("task", "prompt", "protocol")) for content in built]
    named = {config.option_settings("prompt", prompt)["name"] for prompt in prompts}  # an alias is another's
    assert set(made) == {(task, prompt, protocol) for task in tasks for prompt in named}


def one_of_each_kind() -> list[str]:
    """Return a task of each way in which answers are scored."""
    content = {name: config.option_settings("task", name) for name in TASKS}
    kinds = {(of["scoring"], bool(of.get("choices")), len(of["words"])): name for name, of in content.items()}
    return list(kinds.values())


@pytest.mark.parametrize("name", PROMPTS)
def test_the_settings_of_a_prompt_are_read_as_hydra_composes_them(name: str) -> None:
    composed = config.plain(config.compose((f"prompt={name}",)).prompt)
    read = config.option_settings("prompt", name)
    assert read == {key: value for key, value in composed.items() if key in read}
    assert not any(value for key, value in composed.items() if key not in read)


def needs_more(name: str) -> bool:
    """Return whether a method suits some backbones or tasks only (test_writing.py)."""
    method = table.of(config.option_settings("prompt", name)["method"])
    return method.needs_continuation or method.reads_templates or name == "xprompt"  # a finished run


def test_what_needs_more_builds_where_it_has_it() -> None:
    words = ["backbone=gpt2", "prompt=in_context"]
    assert all(resolved(f"task={task}", *words)["prompt"]["shots"] for task in TASKS)
    several = {task for task in TASKS if config.option_settings("task", task).get("templates")}
    assert several == {"boolq", "cb", "copa", "rte", "wic", "wsc"}
    for task in several:
        assert len(resolved(f"task={task}", "prompt=best_template")["task"]["templates"]) == 3


def test_what_is_fitted_to_summaries_has_no_place_where_they_are_drawn_anew() -> None:
    fitted = [name for name in PROMPTS if is_fitted_to_data(name)]
    assert "routed" in fitted
    for prompt in fitted:
        with pytest.raises(UserError, match="use protocol=clean"):
            resolved(f"prompt={prompt}", "protocol=authors")


@pytest.mark.parametrize(
    ("group", "name"),
    [(group, name) for group in ("data", "experiment") for name in config.options(group)],
)
def test_data_and_experiments_build_without_the_command_of_their_file(group: str, name: str) -> None:
    made = resolved(f"{group}={name}")
    if group == "data":
        assert made[group]["name"] == name


@pytest.mark.parametrize("piece", ["position", "length", "vectors"])
def test_a_piece_is_exchanged_whole_and_alone(piece: str) -> None:
    whole = resolved("prompt=dynamic")["prompt"]
    for name in config.options(f"prompt/{piece}"):
        if name in ("none", "routed", "pruned"):  # need layers, a route, or a finished run beside them
            continue
        shipped = yaml.safe_load((CONFIGS / "prompt" / piece / f"{name}.yaml").read_text("utf-8"))
        assert resolved("prompt=dynamic", f"prompt/{piece}={name}")["prompt"] == {**whole, piece: shipped}


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_a_file_opens_with_a_sentence_and_a_command_that_is_right(path: Path, tmp_path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    sentence, command = [line for line in lines if not line.startswith("# @package")][:2]
    assert sentence.startswith("# ")
    assert sentence[2].isupper() or sentence[2].isdigit()
    assert sentence.endswith(".")
    assert command.startswith("#   dp-bench ")
    name, verb, *words = shlex.split(command.removeprefix("#").replace("DIR", "PATH"))
    assert name == "dp-bench"
    assert verb in cli.COMMANDS
    typed = get_args_parser().parse_intermixed_args([word.replace("PATH", str(tmp_path)) for word in words])
    config.check(typed.overrides, sweep=typed.multirun or verb == "sweep")
    group = path.parent.relative_to(CONFIGS).as_posix()
    if group in GROUPS and (group, path.stem) != ("task", "boolq"):
        assert f"{group}={path.stem}" in typed.overrides or group == "data"
    if group in ("backbone", "regime", "trainer") and verb == "train" and not typed.multirun:
        assert resolved(*typed.overrides)[group]["name"] == path.stem


@pytest.mark.parametrize("group", GROUPS)
def test_the_name_in_a_file_is_that_of_the_file(group: str) -> None:
    for option in config.options(group):
        content = yaml.safe_load((CONFIGS / group / f"{option}.yaml").read_text("utf-8"))
        content = content.get(group, content) if group == "protocol" else content
        assert content.get("name", option) == option


def test_an_option_is_described_by_the_sentence_that_opens_its_file() -> None:
    assert config.describe("prompt", "adap_len") == "Dynamic length, one for the task."
    assert not config.describe("protocol", "authors").startswith("@package")


# ---------------------------------------------------------------------------------------------- choices


def test_the_authors_protocol_is_what_their_code_does() -> None:
    """The tags are those of docs/protocol.md."""
    made = resolved("protocol=authors", "task=multirc")
    protocol, trainer = made["protocol"], made["trainer"]
    assert protocol["split_order"] == "code"  # A2
    assert trainer["temperature"]["schedule"] == "authors"  # A7
    by_prompt = {
        name: resolved("protocol=authors", f"prompt={name}")
        for name in PROMPTS
        if not is_fitted_to_data(name) and not needs_more(name)
    }
    as_fixed = {"fixed", "postfix", "split", "random_position"}
    combined = {"dynamic", "adap_ins_vec_pos", "adap_pos_ins_vec"}
    pool = {"adap_ins_vec", "pool"}

    def prompts_with(key: str, value: Any) -> set[str]:
        return {n for n, content in by_prompt.items() if records.flatten(content).get(key) == value}

    assert prompts_with("trainer.step_each_micro_batch", True) == as_fixed | pool | combined  # B1
    assert protocol["sample_at_eval"] is True  # B2
    assert trainer["selection"] == "validation"  # B2
    assert prompts_with("prompt.position.relu", True) >= {"adap_ins_pos", "dynamic"}  # B4
    assert prompts_with("prompt.position.rows_a_draw", 4) >= {"adap_pos", "adap_pos_ins_vec"}  # A2
    assert protocol["summary_pad_to"] == made["task"]["max_length"] == 480  # B5
    assert protocol["frozen_dropout"] is True  # B6
    assert prompts_with("prompt.init", "uniform") >= combined  # B11
    assert prompts_with("prompt.init", "first_vocab") == as_fixed | pool | {  # B11
        *("adap_pos", "adap_ins_pos", "adap_len", "adap_ins_len")
    }
    assert (trainer["precision"], trainer["bucket_batches"]) == ("fp32", 1)
    assert prompts_with("prompt.vectors.tanh", True) == pool  # B12
    assert made["task"]["metrics"] == ["accuracy"]


def test_the_clean_protocol_has_none_of_it() -> None:
    made = resolved("protocol=clean")
    protocol, trainer = made["protocol"], made["trainer"]
    switches = {k: v for k, v in protocol.items() if k not in ("name", "split_order")}
    assert not any(switches.values())
    assert protocol["split_order"] == "paper"
    assert (trainer["selection"], trainer["temperature"]["schedule"]) == ("heldout", "exponential")


@pytest.mark.parametrize("protocol", ["clean", "authors"])
def test_what_is_typed_beats_the_protocol(protocol: str) -> None:
    typed = ("trainer.selection=validation", "prompt.init=frequent", "task.metrics=[exact_match]")
    made = resolved("task=multirc", f"protocol={protocol}", *typed)
    assert made["trainer"]["selection"] == "validation"
    assert made["prompt"]["init"] == "frequent"
    assert made["task"]["metrics"] == ["exact_match"]


def test_copa_is_scored_by_whole_choices_or_by_label_words() -> None:
    words = ["task=copa", "task.scoring=words", "task.words=[first,second]"]
    template = "task.template='first: {choice1} second: {choice2} premise: {premise} question: {question}'"
    assert resolved("task=copa")["task"]["scoring"] == "choices"
    task = resolved(*words, template)["task"]
    assert (task["scoring"], task["words"]) == ("words", ["first", "second"])
    comment = (CONFIGS / "task" / "copa.yaml").read_text("utf-8").splitlines()[3]
    assert shlex.split(comment.removeprefix("#")) == [*words[1:], template.replace("'", '"')]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=copa", "task.words=[a,b]"], "task.words=['a', 'b'] has no meaning"),
        (["task=copa", "task.scoring=words"], "task.words has 0 words for 2 labels"),
        (["task=copa", "task.choices=[choice1,choice3]"], "task.choices names 'choice3'"),
        (["task=copa", "task.choices=[choice1]"], "task.choices names 1 fields for 2 labels"),
        (["task=boolq", "task.scoring=choices", "task.words=[]"], "task.choices names 0 fields for 2 labels"),
        (["task=record", "task.scoring=words"], "task.scoring=words: record has no labels"),
        (["task=axb", "task.train_task.labels=[a,b]"], "task.train_task=rte has other labels than axb"),
        (["task=axb", "task.labels=[a,b]"], "task.train_task=rte has other labels than axb"),
    ],
)
def test_words_choices_and_labels_must_go_together(overrides: list[str], message: str) -> None:
    assert problems(*overrides)[0].startswith(message)


def test_the_diagnostics_are_trained_with_rtes_own_settings() -> None:
    for name in ("axb", "axg"):
        for protocol in ("clean", "authors"):
            task = resolved(f"task={name}", f"protocol={protocol}")["task"]
            assert task["train_task"] == resolved("task=rte", f"protocol={protocol}")["task"]


def test_what_only_lists_and_checks_read_is_in_no_record() -> None:
    for words in (["task=axb"], ["regime=multitask", "regime.tasks=[rte,cb]", "regime.transfer=[axb]"]):
        content = str(resolved(*words))
        assert "'files'" not in content


def test_prompts_named_by_the_authors_protocol_exist() -> None:
    protocol = resolved("protocol=authors")["protocol"]
    named = {name for value in protocol.values() if isinstance(value, list) for name in value}
    assert named <= set(PROMPTS)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A user's own folder of configurations."""
    (tmp_path / "prompt").mkdir()
    (tmp_path / "prompt" / "mine.yaml").write_text(
        "# Three vectors before the text.\ndefaults: [fixed, _self_]\nname: mine\nposition: {outcome: 3}\n",
        "utf-8",
    )
    return tmp_path


def test_a_users_folder_adds_a_prompt(mine: Path) -> None:
    assert config.options("prompt", mine) == (*config.options("prompt"), "mine")
    assert "mine" not in config.options("prompt")
    config.check(["prompt=mine", "prompt.num_tokens=4"], config.Composer(mine))
    prompt = resolved("prompt=mine", extra_dir=mine)["prompt"]
    assert (prompt["name"], prompt["position"]["outcome"]) == ("mine", 3)
    with pytest.raises(UserError, match="There is no prompt 'mine'"):
        config.check(["prompt=mine"])


def test_a_users_file_is_checked_like_ours(mine: Path) -> None:
    with pytest.raises(
        UserError, match=r"outcome=3 must be all, half, none or a number from 0 to prompt.num_tokens=2"
    ):
        config.check(["prompt=mine", "prompt.num_tokens=2"], config.Composer(mine))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [\n b: :", "is not YAML.*line 2"),
        ("defaults: [fixed, _self_]\nname: broken\nnum_token: 3\n", "num_token"),
        ("defaults: [fixd, _self_]\nname: broken\n", "fixd"),
        ("defaults: [fixed, _self_]\nname: broken\nvectors: {_target_: os.getpid}\n", "os.getpid is refused"),
        (
            "defaults: [dynamic, _self_]\nname: broken\nvectors: {inner: [{_target_: os.getpid}]}\n",
            "prompt.vectors.inner is no setting of Pool",
        ),
        (
            "defaults: [fixed, _self_]\nname: broken\nvectors: {_target_: dp_bench.records.subprocess.run}\n",
            "subprocess.run is refused",
        ),
    ],
    ids=["syntax", "key", "base", "target", "inner target", "target through the package"],
)
def test_a_broken_file_of_a_user_is_answered(mine: Path, text: str, message: str) -> None:
    (mine / "prompt" / "broken.yaml").write_text(text, "utf-8")
    with pytest.raises(UserError, match=message):
        config.check(["prompt=broken"], config.Composer(mine))


# ---------------------------------------------------------------------------------------------- check


def test_each_value_of_a_sweep_is_checked_once() -> None:
    found = problems("seed=0,1,2", "prompt=fixed,dynamic", "trainer.lr=0.1,-1,-2", "device=gpu")
    assert sorted(line.split()[0] for line in found) == ["device=gpu", "trainer.lr=-1.0", "trainer.lr=-2.0"]


def test_a_sweep_composes_each_choice_of_files_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []
    by_hydra = config.Composer._by_hydra
    monkeypatch.setattr(config.Composer, "_by_hydra", lambda *words: calls.append(words) or by_hydra(*words))
    words = ["seed=range(0,20)", "prompt=fixed,dynamic", "prompt.num_tokens=1,2,3"]
    config.check(words, config.Composer(tmp_path))  # a folder, so that no other test has composed them
    assert len(calls) == 2


def test_what_is_composed_is_the_callers_to_change() -> None:
    first = config.compose(["task=rte", "seed=3"])
    first.task.title = "changed"
    first.prompt.num_tokens = 3
    again = config.compose(["task=rte"])
    assert (again.task.title, again.prompt.num_tokens, again.seed) == ("RTE", 20, 0)


def test_a_glob_names_the_files_it_matches() -> None:
    config.check(["prompt=glob(adap_ins_v*)"])
    assert "matches nothing" in problems("prompt=glob(foo*)")[0]


def test_a_setting_is_judged_by_the_pieces_that_are_chosen() -> None:
    config.check(["prompt=fixed", "prompt/vectors=pool", "prompt.vectors.num_prompts=8"])
    assert "prompt.vectors.num_prompts" in problems("prompt=fixed", "prompt.vectors.num_prompts=8")[0]
    assert "prompt.vectors.num_prompts" in problems("prompt=dynamic,fixed", "prompt.vectors.num_prompts=8")[0]


def test_what_hangs_on_an_unknown_choice_is_not_judged() -> None:
    (found,) = problems("task=bolq", "task.words=[a,b,c,d]", "prompt.num_tokens=2")
    assert found.startswith("There is no task 'bolq'")


def test_missing_settings_are_asked_for() -> None:
    assert problems("backbone=local") == [
        "backbone=local names no checkpoint: add backbone.name_or_path=DIR."
    ]
    assert problems("task.words=???") == ["task.words must be given: add task.words=…."]


def test_free_arguments_of_a_random_backbone_can_be_added() -> None:
    config.check(["backbone=t5_tiny_random", "+backbone.random_init.dropout_rate=0.2"])
    assert "no setting" in problems("backbone=t5_base", "+backbone.random_init.dropout_rate=0.2")[0]


@pytest.mark.parametrize(
    "override",
    [
        *("seed=-1", "device=gpu", "device=cuda:x", "data.limit=3", "trainer.precision=fp16", "trainer.lr=0"),
        *(
            "trainer.max_steps=0",
            "trainer.bucket_batches=0",
            "trainer.micro_batch_size=99",
            "trainer.patience=0",
        ),
        *("trainer.heldout_fraction=1", "trainer.heldout_max=0", "trainer.max_grad_norm=0"),
        *("trainer.temperature.end=2", "trainer.temperature.end=0", "trainer.temperature.anneal=0"),
        *("trainer.warmup_steps=-1", "trainer.eval_every=0", "trainer.eval_batch_size=0"),
        *("prompt.num_tokens=0", "prompt.length.outcome=none", "prompt.length.outcome=21"),
        *("prompt.length.outcome=true", "prompt.length.outcome=some", "prompt.vectors.num_prompts=0"),
        *("task.words=[yes]", "task.words=[yes,yes]", "task.reader=x", "task.metrics=[f2]"),
        *("task.max_length=3", "task.template='{question}'"),
        *("trainer.full.lr=0", "trainer.full.weight_decay=-1", "regime.shots=0"),
    ],
)
def test_a_value_without_sense_is_refused_with_what_to_type(override: str) -> None:
    (found,) = problems(override)
    assert override.partition("=")[0].split(".")[-1] in found
    assert found.endswith((".", ")"))


def test_every_number_has_a_range_or_may_be_any() -> None:
    numbers = {
        path
        for path, kind in _types(RunSettings, "")
        if {"int", "float"} & set(kind.replace(" ", "").split("|"))
    }
    ranged = {key for keys in RANGES.values() for key in keys}
    anything = {"regime.split_seed", "data.world_seed", "backbone.init_seed", "hpo.seed"}
    anything |= {f"seeds.{stream.name}" for stream in dataclasses.fields(SeedSettings)}
    elsewhere = {"hpo.trials", "prompt.num_tokens"}  # where they are read
    elsewhere |= {f"prompt.{name}" for name in ("rank", "alpha", "size", "shots")}
    assert ranged <= numbers
    assert numbers - ranged - anything - elsewhere == {"protocol.revision"}


def _types(settings: type, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted keys of all settings but those of a task, with their types."""
    hints = get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _types(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", str(field.type)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("protocol.by_prompt={fixed: {prompt.inti: uniform}}", "protocol.by_prompt of fixed: .*'inti'"),
        ("protocol.by_prompt={fixed: {prompt.init: unifrm}}", "expected one of .*uniform"),
        ("protocol.by_prompt=3", "must map names to settings"),
        ("protocol.by_piece={Fixed: {otcome: 1}}", "Did you mean outcome"),
    ],
)
def test_what_a_protocol_sets_elsewhere_is_checked(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.experiment(["task=rte", "prompt=fixed", setting])


def test_a_protocol_sets_pieces_and_prompts_by_name() -> None:
    words = ["task=rte", "protocol.by_piece={PerInstance: {relu: true}}"]
    assert config.experiment([*words, "prompt=dynamic"]).resolved["prompt"]["position"]["relu"] is True
    typed = config.experiment([*words, "prompt=dynamic", "+prompt.position.relu=false"])
    assert typed.resolved["prompt"]["position"]["relu"] is False


IDLE = [
    ("prompt=fixed trainer.temperature.start=2", "trainer.temperature.start"),
    ("prompt=dynamic trainer.temperature.start=2", None),
    ("prompt=zero_shot trainer.max_steps=5", "trainer.max_steps"),
    ("prompt=zero_shot trainer.eval_batch_size=5", None),
    ("prompt=zero_shot,fixed trainer.max_steps=5", None),  # some of the runs read it
    ("prompt=fixed backbone=smollm2 backbone.answer_prefix=x", "backbone.answer_prefix"),
    ("prompt=fixed backbone.answer_cue=x", None),  # also behind the texts of a decoder that answers
    ("prompt=fixed backbone.init_seed=4", "backbone.init_seed"),
    ("prompt=fixed backbone=t5_tiny_random backbone.init_seed=4", None),
    ("prompt=fixed data=micro data.dir=x", "data.dir"),
    ("prompt=fixed prompt.summary=last", "prompt.summary"),
    ("prompt=dynamic prompt.summary=last", None),
    ("prompt=linear_probe prompt.summary=last", None),
    ("prompt=fixed seeds.gumbel=3", "seeds.gumbel"),
    ("prompt=fixed protocol=authors seeds.gumbel=3", None),
    ("prompt=fixed keep_weights=true", "keep_weights"),
    ("prompt=fixed trainer.lr=0.2 prompt.lr=0.3", "trainer.lr"),
    ("prompt=majority prompt.lr=3", "prompt.lr"),
    ("prompt=fixed regime=fewshot seeds.heldout=3", "seeds.heldout"),
    ("prompt=fixed regime.mixing_cap=5", "regime.mixing_cap"),
]


@pytest.mark.parametrize(("words", "idle"), IDLE)
def test_a_setting_that_nothing_reads_is_said(
    words: str, idle: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    config.check(["task=rte", *words.split()])
    said = capsys.readouterr().err.splitlines()
    assert said == [] if idle is None else (len(said) == 1 and f"{idle} has no effect" in said[0])


@pytest.mark.parametrize("word", ["+trainer.lr=1", "+task.files=-1", "+backbone.random_init={a: 1}"])
def test_what_hydra_refuses_is_one_answer_also_for_a_run_of_a_sweep(word: str) -> None:
    with pytest.raises(UserError):
        config.experiment(["task=rte", word])


@pytest.mark.parametrize("content", ["", "method: 3", "defaults: 3", "defaults: [[1]]", "num_tokens: x"])
@pytest.mark.parametrize("group", ["prompt", "task"])
def test_a_yaml_file_that_lacks_what_a_list_shows_is_named(group: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / group / "mine.yaml"
    path.parent.mkdir()
    path.write_text(content)
    words = ["list", "prompts"] if group == "prompt" else ["data", "check", "--dir", str(tmp_path)]
    with pytest.raises(UserError, match=r"mine\.yaml"):
        cli._dispatch([*words, "--config-dir", str(tmp_path)])


@pytest.mark.parametrize(
    "word", ["task.labels=${seed}", "backbone.random_init=${seed}", "regime.tasks=${seed}"]
)
def test_a_reference_to_a_value_of_another_type_is_one_paragraph(word: str) -> None:
    with pytest.raises(UserError, match=word.split("=", maxsplit=1)[0].replace(".", r"\.")):
        config.check(["task=rte", word])
    with pytest.raises(UserError, match=word.split("=", maxsplit=1)[0].replace(".", r"\.")):
        config.experiment(["task=rte", word])
