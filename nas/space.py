"""Search spaces: an architecture is a row of integers, one per decision."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from nas.errors import BadInput, suggest

if TYPE_CHECKING:
    from nas.layers import Layer
    from nas.relaxation import Relaxation
    from nas.supernet import Supernet

Row = Any  # int32[L], numpy or jax
Archs = Any  # int32[N, L]


# far above any real network; a typing error should not fill the memory
MACRO_LIMITS = {"width": 65536, "depth": 256, "classes": 10**6}
LARGEST_SIDE = 65536  # of an image, and of its channels


@dataclass(frozen=True)
class Macro:
    """The frame around the searched part: what the same row is searched at and deployed at.

    Attributes:
        width: channels after the stem (the paper's C or F).
        depth: cells; what is counted is the space's to say (a stage in NAS-Bench-201, the whole network in DARTS).
        input: (height, width, channels) of one image, or (tokens,) of one sequence of a text.
        classes: outputs of the head; of a language model the tokens that it knows.
    """

    width: int
    depth: int
    input: tuple[int, ...]
    classes: int

    def __post_init__(self):
        object.__setattr__(self, "input", tuple(self.input))
        for name, most in MACRO_LIMITS.items():
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 1 <= value <= most:
                raise BadInput(f"macro {name} is {str(value)[:40]}; it must be a whole number from 1 to {most:,}")
        good = all(isinstance(n, int | np.integer) and 1 <= n <= LARGEST_SIDE for n in self.input)
        if len(self.input) not in (1, 3) or not good:
            shown = str(self.input)[:60]
            form = "height, width, channels, or the tokens of a sequence"
            raise BadInput(f"macro input is {shown}; it must be {form}, each 1 to {LARGEST_SIDE:,}")


@dataclass(frozen=True)
class Decision:
    """One choice: a name and its options, JSON values in order. A row holds the option's index."""

    name: str
    options: tuple[Any, ...]

    def __post_init__(self):
        object.__setattr__(self, "options", tuple(self.options))
        if not self.options:
            raise BadInput(f"decision '{self.name}' has no options; give it at least one")
        shown = [json.dumps(o, default=str) for o in self.options]
        twice = next((o for o in shown if shown.count(o) > 1), None)
        if twice is not None:
            raise BadInput(f"decision '{self.name}': the option {twice} is there twice; options must be different")


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """A space of architectures: frozen data and a few pure functions.

    A row is ``int32[L]``: for each decision the index of its option. Name, decisions, network and macro are needed;
    what is left out has a default.

    Attributes:
        name: the name configs are exported under.
        decisions: in the order they are taken; `allowed` may look back, never ahead.
        network: ``(net, macro) -> value``, the network written once against `nas.builder.LayerBuilder`'s methods, with
            ``net.choice`` wherever the row decides. Layers, counts, the Flax network and the shared program follow.
        macro: the frame searched at when none is given.
        allowed_of: ``(row int32[L], i) -> bool[K]``, jittable in `row`, `i` a Python int: options of decision `i` given
            the decisions before it; entries from `i` on must not be read. An inactive decision allows option 0 alone.
            Default: every option.
        key_of: ``(row int32[L]) -> int32[L]``, jittable: one row for all rows whose networks compute the same function
            family. For detecting duplicates only: twins are trained as given (their measured accuracies differ).
        supernet_of: ``(space, macro) -> Supernet``: a hand-written program for every row. Default: the one that
            `network` gives.
        factors: groups of decision indices such that parameters, multiply-accumulates and measured block times add
            over the groups. Default: each decision alone. Checked when a cost is tabulated.
        readers: for each decision the later ones that alone read the result of its choice, () where the network itself
            does. One whose option is ``none`` reads nothing. For tables of what drops the unread, see `nas.unread`.
        arguments: what the factory was called with (JSON), so that a config can call it again.
        sample_of: ``(uniform float32[L]) -> int32[L]``, another distribution for `sample`.
        relaxation_of: ``(space) -> Relaxation``, the edges and operations that differentiable methods search in.
            Default: an edge for each decision.
        mixed_of: ``(space, macro) -> Supernet``: a hand-written program of that relaxation. Default: the one
            that `network` gives, see `nas.mixed.mixed_supernet`.
        view: what a restricted view of the space keeps to (JSON), as `nas.near` makes one; written to ``search.json``.
    """

    name: str
    decisions: tuple[Decision, ...]
    network: Callable[[Any, Macro], Any]
    macro: Macro
    allowed_of: Callable[[Row, int], Any] | None = None
    key_of: Callable[[Row], Row] | None = None
    supernet_of: "Callable[[SearchSpace, Macro], Supernet] | None" = None
    factors: tuple[tuple[int, ...], ...] | None = None
    readers: tuple[tuple[int, ...], ...] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    sample_of: Callable[[jax.Array], Row] | None = None
    relaxation_of: "Callable[[SearchSpace], Relaxation] | None" = None
    mixed_of: "Callable[[SearchSpace, Macro], Supernet] | None" = None
    view: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "decisions", tuple(self.decisions))
        names = [d.name for d in self.decisions]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice or not names:
            raise BadInput(
                f"space '{self.name}': " + (f"decision '{twice}' appears twice" if twice else "no decisions")
            )

        for i, readers in enumerate(self.readers or ()):
            if len(self.readers or ()) != len(names) or not all(i < j < len(names) for j in readers):
                raise BadInput(
                    f"space '{self.name}': readers of decision '{names[i]}' are {readers}; there must be a tuple for "
                    "each decision, of numbers of later ones"
                )

    # ---- shape -------------------------------------------------------------------------------------------------
    @property
    def length(self) -> int:
        """L, the number of decisions."""
        return len(self.decisions)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Options of each decision."""
        return tuple(len(d.options) for d in self.decisions)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits over name, arguments and decisions: a config fits a space only when they agree."""
        what = [self.name, dict(self.arguments), [[d.name, list(d.options)] for d in self.decisions]]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    # ---- the network -------------------------------------------------------------------------------------------
    def layers(self, row: Row, macro: Macro | None = None) -> "tuple[Layer, ...]":
        """The resolved layers of one network: shapes, attributes, wiring. Counts, building and drawing read these."""
        from nas.builder import LayerBuilder

        macro = macro or self.macro
        net = LayerBuilder(macro.input, self.decisions, np.asarray(row).tolist())
        return net.finish(self.network(net, macro))

    @property
    def relaxation(self) -> "Relaxation":
        """The relaxed form of this space, for differentiable methods."""
        from nas.relaxation import plain_relaxation

        return (self.relaxation_of or plain_relaxation)(self)

    def build(self, row: Row, macro: Macro | None = None, *, rngs):
        """A Flax network of this one architecture, newly initialised from `rngs` (``flax.nnx.Rngs``)."""
        from nas.network import Network

        return Network(self.layers(row, macro), rngs=rngs)

    def supernet(self, macro: Macro | None = None) -> "Supernet":
        """One program that serves every row at this macro."""
        from nas.supernet import choice_supernet

        return (self.supernet_of or choice_supernet)(self, macro or self.macro)

    # ---- rows --------------------------------------------------------------------------------------------------
    def allowed(self, row: Row, i: int) -> jax.Array:
        """bool[K], K the largest cardinality: options of decision `i` given the earlier decisions of `row`."""
        k, width = len(self.decisions[i].options), max(self.cardinalities)
        mask = jnp.ones(k, bool) if self.allowed_of is None else jnp.asarray(self.allowed_of(row, i), bool)[:k]
        return jnp.pad(mask, (0, width - k))

    def masks(self, row: Row) -> jax.Array:
        """bool[L, K]: `allowed` of every decision."""
        return jnp.stack([self.allowed(row, i) for i in range(self.length)])

    def sample(self, key: jax.Array, n: int) -> jax.Array:
        """int32[n, L]: each decision uniform over what is allowed given the earlier ones.

        That is uniform over rows only where every option is always allowed.
        """
        return jax.vmap(self.sample_from)(jax.random.uniform(key, (n, self.length)))

    def sample_from(self, uniform: jax.Array) -> jax.Array:
        """int32[L] from float32[L] in [0, 1): the same as `sample`, for a caller that draws its numbers at once.

        Each call of a generator takes a third of a second to compile; a strategy whose `ask` makes one is the quicker.
        """
        return self.settle(jnp.full(self.length, -1), uniform) if self.sample_of is None else self.sample_of(uniform)

    def settle(self, wanted: Row, uniform: jax.Array) -> jax.Array:
        """int32[L]: `wanted`, and where it is not allowed given the decisions before, another option.

        Args:
            wanted: int32[L]; -1 asks for any allowed option.
            uniform: float32[L] in [0, 1), picks the options that are not as wanted; all 0 takes the first allowed.
        """
        row = jnp.asarray(wanted, jnp.int32)
        if self.allowed_of is None:
            return jnp.where(row >= 0, row, _nth(uniform, jnp.asarray(self.cardinalities)))
        for i in range(self.length):
            mask = self.allowed(row, i)
            row = row.at[i].set(jnp.where((row[i] >= 0) & mask[row[i]], row[i], _pick(mask, uniform[i])))
        return row

    def mutate(self, key: jax.Array, rows: Archs, weights: jax.Array | None = None) -> jax.Array:
        """int32[N, L] -> int32[N, L]: one decision of each row changed to another allowed option.

        The decision is uniform over those that have a choice, or drawn in proportion to `weights`, float32[L]. Later
        decisions stay where they are still allowed and are drawn anew where they are not. A row without any choice
        comes back as it is.
        """
        rows = jnp.asarray(rows, jnp.int32)
        uniform = jax.random.uniform(key, (rows.shape[0], self.length + 1))
        return jax.vmap(self.mutate_from, (0, 0, None))(uniform, rows, weights)

    def mutate_from(self, uniform: jax.Array, row: Row, weights: jax.Array | None = None) -> jax.Array:
        """int32[L] from float32[L + 1] in [0, 1) and int32[L]: the same as `mutate`, see `sample_from`."""
        if self.allowed_of is None and weights is None:
            return self._mutate_freely(uniform, row)
        masks = self.masks(row)
        share = jnp.cumsum((masks.sum(-1) > 1) * (1.0 if weights is None else weights))
        # the first decision whose share of the whole reaches above the drawn number
        target = jnp.argmax(share > uniform[0] * share[-1])
        other = masks[target] & (jnp.arange(masks.shape[1]) != row[target])
        changed = jnp.where(share[-1] > 0, _pick(other, uniform[target + 1]), row[target])
        return self.settle(row.at[target].set(changed), uniform[1:])

    def _mutate_freely(self, uniform, row):
        """`mutate_from` where every option is always allowed; a fraction of its instructions."""
        sizes = np.asarray(self.cardinalities)
        free = np.flatnonzero(sizes > 1)
        if not len(free):
            return row
        target = jnp.asarray(free)[_nth(uniform[0], len(free))]
        other = _nth(uniform[1:], jnp.asarray(np.maximum(sizes - 1, 1)))
        return jnp.where(jnp.arange(self.length) == target, other + (other >= row), row)

    def cross_from(self, uniform: jax.Array, row: Row, other: Row) -> jax.Array:
        """int32[L] from float32[2 L] in [0, 1): uniform crossover, each decision from one of two rows by even chance.

        A decision that does not fit the earlier ones of the child is drawn anew.
        """
        return self.settle(jnp.where(uniform[: self.length] < 0.5, row, other), uniform[self.length :])

    def neighbours(self, row: Row) -> np.ndarray:
        """int32[M, L]: every row one allowed change away (later decisions that no longer fit take their first)."""
        row = np.asarray(row, np.int32)
        others = np.array(self.masks(row))
        others[np.arange(self.length), row] = False
        decisions, options = np.nonzero(others)
        found = np.tile(row, (len(decisions), 1))
        found[np.arange(len(decisions)), decisions] = options
        if self.allowed_of is None or not len(found):
            return found
        return np.array(jax.jit(jax.vmap(self.settle, (0, None)))(found, np.zeros(self.length)))

    def key(self, row: Row) -> Row:
        """int32[L]: equal for equivalent networks. For duplicates only; train the row as given."""
        return row if self.key_of is None else self.key_of(row)

    def valid(self, rows: Archs) -> jax.Array:
        """bool[N]: every decision within its options and allowed given the earlier ones. Jittable."""
        return jax.vmap(self._valid_one)(jnp.asarray(rows, jnp.int32))

    def _valid_one(self, row):
        inside = (row >= 0) & (row < jnp.asarray(self.cardinalities))
        safe = jnp.where(inside, row, 0)
        return inside.all() & jnp.stack([self.allowed(safe, i)[safe[i]] for i in range(self.length)]).all()

    # ---- names -------------------------------------------------------------------------------------------------
    def decode(self, row: Row) -> dict[str, Any]:
        """Row to ``{decision name: option value}``."""
        return {d.name: d.options[int(i)] for d, i in zip(self.decisions, np.asarray(row), strict=True)}

    def encode(self, choices: Mapping[str, Any]) -> np.ndarray:
        """``{decision name: option value}`` to a row int32[L].

        Raises:
            BadInput: a decision is missing or unknown, an option unknown, or the combination is not allowed.
        """
        names = {d.name for d in self.decisions}
        unknown = next((n for n in choices if n not in names), None)
        if unknown is not None:
            raise BadInput(f"choices: no decision '{unknown}' in space '{self.name}'; {suggest(str(unknown), names)}")
        row = np.zeros(self.length, np.int32)
        for i, decision in enumerate(self.decisions):
            if decision.name not in choices:
                raise BadInput(f"choices: decision '{decision.name}' of space '{self.name}' is missing")
            value = _plain(choices[decision.name])
            options = [_plain(o) for o in decision.options]
            if value not in options or isinstance(value, bool) != isinstance(options[options.index(value)], bool):
                shown = ", ".join(json.dumps(o) for o in options)
                raise BadInput(f"choices: '{decision.name}' is {json.dumps(value, default=str)}; options: {shown}")
            row[i] = options.index(value)
        self.check(row)
        return row

    def check(self, row: Row) -> np.ndarray:
        """The row as int32[L], checked.

        Raises:
            BadInput: wrong length, not whole numbers, an index outside its options, or a choice that is not allowed.
        """
        given = np.asarray(row)
        if given.shape != (self.length,) or given.dtype.kind not in "iu":
            shown = " ".join(repr(row).split())[:60]
            raise BadInput(f"row: space '{self.name}' takes {self.length} whole numbers, one per decision; got {shown}")
        for i, decision in enumerate(self.decisions):
            if not 0 <= given[i] < len(decision.options):
                last = len(decision.options) - 1
                raise BadInput(f"row: '{decision.name}' is option {given[i]}; it must be from 0 to {last}")
            if self.allowed_of is not None and not bool(self.allowed(given, i)[given[i]]):
                value = json.dumps(decision.options[given[i]])
                raise BadInput(f"row: '{decision.name}' = {value} is not allowed with the choices before it")
        return given.astype(np.int32)

    def at(self, macro: Macro) -> "SearchSpace":
        """The same space with another default macro."""
        return replace(self, macro=macro)


def _pick(mask, uniform):
    """Index of a True of `mask`, uniform over them, by one uniform number."""
    return jnp.argmax(jnp.cumsum(mask) > _nth(uniform, mask.sum())).astype(jnp.int32)


def _nth(uniform, count):
    """int32, uniform over 0..count-1."""
    return jnp.minimum((uniform * count).astype(jnp.int32), count - 1)


def _plain(value):
    """Lists and tuples alike, as JSON gives them back."""
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


@functools.lru_cache(maxsize=8)
def _all_rows(cardinalities: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, cardinalities), indexing="ij"), -1).reshape(-1, len(cardinalities))


def all_rows(space: SearchSpace, limit: int = 1_000_000) -> np.ndarray:
    """int32[N, L]: every row of a small space, in lexicographic order, whether allowed or not.

    Raises:
        BadInput: the space has more than `limit` rows.
    """
    count = int(np.prod([float(c) for c in space.cardinalities]))
    if count > limit:
        raise BadInput(f"space '{space.name}' has {count:.3g} rows, more than the {limit} that can be listed")
    return _all_rows(space.cardinalities).astype(np.int32)
