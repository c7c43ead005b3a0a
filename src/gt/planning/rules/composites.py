"""Composites that travel whole: attention and recurrent layers. Their results here are those before the handle, if any."""

from __future__ import annotations

from gt.planning.rule import Labels, Rule
from gt.planning.rules import labelling
from gt.planning.rules.reading import Row, Table, argument, operand, operands_in, operands_of
from gt.wire import instructions as wire


def attention(define: wire.Define) -> Rule | None:
    """`scaled_dot_product_attention(query, key, value, mask, dropout, causal)`: batches and heads, where all have as many.

    With fewer heads of keys than of queries (`enable_gqa`), heads are whole.
    """
    if argument(define, 4, "dropout_p", 0.0) != 0.0 or len(operands_of(define.args[:3])) != 3:
        return None
    shape = define.ins[0].size[:-2]
    if any(len(g.size) != len(shape) + 2 for g in define.ins[:3]):
        return None
    heads: Labels = tuple(k if all(g.size[k] == n for g in define.ins[:3]) else None for k, n in enumerate(shape))
    ins: dict[int, Labels] = dict.fromkeys(range(3), (*heads, None, None))
    mask = operand(define, 3, "attn_mask")
    if mask is not None:
        size = define.ins[mask].size[:-2]
        if len(size) > len(shape) or len(define.ins[mask].size) < 2:
            return None
        behind = len(shape) - len(size)
        ins[mask] = (*labelling.where_equal(heads[behind:], size, shape[behind:]), None, None)
    return labelling.rule(ins, {0: (*heads, None, None)})


def recurrent(states: int) -> Row:
    """A row of `(input [time, batch, features], states [layers, batch, features], weights, has_biases, layers, dropout,
    train, bidirectional, batch_first)`: only the batch. `states`: the number of states."""

    def row(define: wire.Define) -> Rule | None:
        drops = argument(define, 5) != 0 and argument(define, 6) is not False
        first = argument(define, 8)
        weights = operands_in(argument(define, 2))
        if drops or type(first) is not bool or len(define.ins) != 1 + states + len(weights) or len(define.ins[0].size) != 3:
            return None
        sequence: Labels = ("b", None, None) if first else (None, "b", None)
        state: Labels = (None, "b", None)
        ins = {0: sequence, **dict.fromkeys(range(1, 1 + states), state)}
        ins.update({i: (None,) * len(define.ins[i].size) for i in weights})
        return labelling.rule(ins, {0: sequence, **dict.fromkeys(range(1, 1 + states), state)})

    return row


def cell(states: int) -> Row:
    """A row of one step of a recurrent layer, `(input [batch, features], states, weights...)`."""

    def row(define: wire.Define) -> Rule | None:
        if any(len(g.size) != 2 for g in define.ins[: 1 + states]):
            return None
        line: Labels = ("b", None)
        ins: dict[int, Labels] = dict.fromkeys(range(1 + states), line)
        ins.update({i: (None,) * len(define.ins[i].size) for i in range(1 + states, len(define.ins))})
        return labelling.rule(ins, dict.fromkeys(range(states), line))

    return row


TABLE: Table = {
    "scaled_dot_product_attention": attention,
    "lstm.input": recurrent(2),
    **dict.fromkeys(("gru.input", "rnn_tanh.input", "rnn_relu.input"), recurrent(1)),
    "lstm_cell": cell(2),
    **dict.fromkeys(("gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), cell(1)),
}
