"""How many numbers each prompt trains, as a formula and for a T5's widths; no torch, so that listing is fast.

P vectors of width D, J = P + 1 outcomes, K members, N tasks, C labels, S attentions of inner width W, r the
rank of LoRA.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Widths:
    """The dimensions of a T5 1.1 that the formulas read."""

    d_model: int
    inner: int  # heads times head width
    encoder_layers: int
    decoder_layers: int

    @property
    def sites(self) -> tuple[int, int, int]:
        """Attentions of the encoder, of the decoder to itself, and of the decoder to the encoder."""
        return self.encoder_layers, self.decoder_layers, self.decoder_layers


T5 = {
    "small": Widths(512, 384, 8, 8),
    "base": Widths(768, 768, 12, 12),
    "large": Widths(1024, 1024, 24, 24),
    "xl": Widths(2048, 2048, 24, 24),
}
P, K, ROUTED_K, L2P_K, L2P_N, HIDDEN, RANK = 20, 4, 2, 10, 5, 512, 8  # what the YAML files say


@dataclass(frozen=True)
class Count:
    """A formula in words and in numbers, by the widths and the number of tasks."""

    formula: str
    value: Callable[[Widths, int], int]


def _mlp(w: Widths, tasks: int) -> int:
    own = [2 * number * w.inner for number in w.sites]
    return sum(P * w.d_model + (w.d_model + 1) * HIDDEN + (HIDDEN + 1) * width for width in own)


def _pool_of(k: int) -> Count:
    return Count("K P D + K (D + 1)", lambda w, n: k * P * w.d_model + k * (w.d_model + 1))


def _pool_and_split_of(k: int) -> Count:
    return Count("K P D + (K + J) (D + 1)", lambda w, n: k * P * w.d_model + (k + P + 1) * (w.d_model + 1))


def _members_of(k: int) -> Count:
    return Count("K P D", lambda w, n: k * P * w.d_model)


_fixed = Count("P D", lambda w, n: P * w.d_model)
_task = Count("P D + N J", lambda w, n: P * w.d_model + n * (P + 1))
_instance = Count("P D + (D + 1) J", lambda w, n: P * w.d_model + (w.d_model + 1) * (P + 1))
_pool = _pool_of(K)
_none = Count("0", lambda w, n: 0)

COUNTS = {
    **dict.fromkeys(("fixed", "postfix", "split", "random_position"), _fixed),
    **dict.fromkeys(("adap_pos", "adap_len"), _task),
    **dict.fromkeys(("adap_ins_pos", "adap_ins_len"), _instance),
    **dict.fromkeys(("adap_ins_vec", "pool"), _pool),
    **dict.fromkeys(
        ("routed", "routed_full", "routed_mixture", "mixture", "shuffled_route"), _pool_of(ROUTED_K)
    ),
    **dict.fromkeys(("random_route", "oracle_route"), _members_of(ROUTED_K)),
    "ridge_position": _instance,
    "routed_position": _pool_and_split_of(ROUTED_K),
    **dict.fromkeys(("adap_ins_vec_pos", "dynamic"), _pool_and_split_of(K)),
    "adap_pos_ins_vec": Count("K P D + K (D + 1) + N J", lambda w, n: _pool.value(w, n) + n * (P + 1)),
    **dict.fromkeys(("fixed_kp", "uniform_pool"), _members_of(K)),
    "prefix_tuning": Count(
        "for each kind of attention: P D + (D + 1) 512 + 513 (2 S W); 2 P S W without the MLP", _mlp
    ),
    "p_tuning_v2": Count("2 P S W", lambda w, n: 2 * P * sum(w.sites) * w.inner),
    # Two layers of a bidirectional LSTM, D / 2 wide each way, and an MLP of two layers.
    "p_tuning": Count("P D + 14 D^2 + 18 D", lambda w, n: P * w.d_model + 14 * w.d_model**2 + 18 * w.d_model),
    "l2p_pool": Count("K (P / 5) D + K D", lambda w, n: L2P_K * (P // L2P_N + 1) * w.d_model),
    "multitask": Count("K P D + N K (D + 1)", lambda w, n: K * P * w.d_model + n * K * (w.d_model + 1)),
    "mpt": Count("P D + N (P + D)", lambda w, n: P * w.d_model + n * (P + w.d_model)),
    "lora": Count("2 r S (D + W)", lambda w, n: 2 * RANK * sum(w.sites) * (w.d_model + w.inner)),
    "linear_probe": Count("C (D + 1), here C = 2", lambda w, n: 2 * (w.d_model + 1)),
    "bitfit": Count("all biases; T5 has none", lambda w, n: 0),
    "fine_tuning": Count("all weights", lambda w, n: -1),
    **dict.fromkeys(("zero_shot", "majority"), _none),
}
