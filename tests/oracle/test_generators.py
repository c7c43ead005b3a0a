"""`torch.Generator(device="remote")` draws the numbers of a CPU's generator with the same seed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils import data

import gt

Draw = Callable[[torch.Generator, str], torch.Tensor]
DRAWS: dict[str, Draw] = {
    "randn": lambda g, d: torch.randn(2, 3, generator=g, device=d),
    "rand": lambda g, d: torch.rand(3, generator=g, device=d, dtype=torch.float64),
    "randint": lambda g, d: torch.randint(0, 9, (4,), generator=g, device=d),
    "randperm": lambda g, d: torch.randperm(7, generator=g, device=d),
    "normal": lambda g, d: torch.normal(torch.zeros(3, device=d), 2.0, generator=g),
    "normal_of_numbers": lambda g, d: torch.normal(0.0, 1.0, (3,), generator=g, device=d),
    "multinomial": lambda g, d: torch.multinomial(torch.ones(5, device=d), 3, generator=g),
    "bernoulli": lambda g, d: torch.bernoulli(torch.full((5,), 0.5, device=d), generator=g),
    "poisson": lambda g, d: torch.poisson(torch.ones(4, device=d), g),
    "in_place": lambda g, d: torch.empty(3, device=d).uniform_(generator=g).exponential_(generator=g),
    "initialisation": lambda g, d: nn.init.kaiming_uniform_(torch.empty(3, 2, device=d), generator=g),
    "orthogonal": lambda g, d: nn.init.orthogonal_(torch.empty(3, 2, device=d), generator=g),
    "for_the_cpu": lambda g, d: torch.randperm(5, generator=g),
    "sampler": lambda g, d: torch.tensor(list(data.RandomSampler(range(6), generator=g))),
    "loader": lambda g, d: torch.cat(list(data.DataLoader(torch.arange(6), 4, shuffle=True, generator=g))),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWS)
def test_a_generator_for_the_device_draws_a_cpus_numbers(name: str) -> None:
    local, remote = torch.Generator().manual_seed(3), torch.Generator(device="remote").manual_seed(3)
    for _ in range(2):
        expected, got = DRAWS[name](local, "cpu"), DRAWS[name](remote, "remote")
        assert torch.equal(got.cpu(), expected)
        assert torch.equal(remote.get_state(), local.get_state())


def test_its_state_is_set_and_read_as_a_cpus() -> None:
    local, remote = torch.Generator(), torch.Generator("remote")
    assert remote.initial_seed() == local.initial_seed()
    assert torch.equal(remote.get_state(), local.get_state())
    assert remote.manual_seed(7) is remote
    assert remote.initial_seed() == 7
    state = remote.get_state()
    first = torch.randn(3, generator=remote, device="remote")
    assert remote.set_state(state.to("remote")) is remote
    assert torch.equal(torch.randn(3, generator=remote, device="remote"), first)
    assert remote.seed() == remote.initial_seed()


@pytest.mark.parametrize("copied", [lambda g: g.clone_state(), copy.copy, copy.deepcopy])
def test_a_copy_goes_on_by_itself(copied: Callable[[torch.Generator], torch.Generator]) -> None:
    generator = torch.Generator("remote").manual_seed(1)
    other = copied(generator)
    assert (type(other), other.device) == (type(generator), generator.device)
    first = torch.rand(2, generator=other, device="remote")
    assert torch.equal(torch.rand(2, generator=generator, device="remote"), first)


def test_a_pickled_one_is_a_cpus_which_needs_no_device_to_be_named() -> None:
    generator = torch.Generator("remote").manual_seed(5)
    text = pickle.dumps(generator)
    assert b"remote" not in text
    assert b"gt." not in text
    assert torch.equal(pickle.loads(text).get_state(), generator.get_state())


def test_its_class_is_torchs() -> None:
    generator = torch.Generator("remote")
    assert generator.device == torch.ones(1, device="remote").device
    assert isinstance(generator, torch.Generator)
    assert isinstance(torch.Generator(), torch.Generator)
    assert type(torch.Generator()) == torch.Generator  # noqa: E721 - as programs write it
    assert torch.Generator in {type(torch.Generator())}
    assert pickle.loads(pickle.dumps(torch.Generator)) is torch.Generator
    assert gt.Generator == torch.Generator

    class Own(torch.Generator):
        """A user's class."""

    assert isinstance(Own(), torch.Generator)
    assert issubclass(Own, torch.Generator)


def test_what_it_cannot_be_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.Generator("remote:1")
    with pytest.raises(RuntimeError, match="nothing"):
        torch.Generator("nothing")
    with pytest.raises(TypeError):
        torch.Generator("cpu", "cpu")


def test_in_a_ported_file_it_is_where_tensors_are() -> None:
    for generator in (gt.Generator(), gt.Generator("cpu"), gt.Generator(device=gt.ones(1).device)):
        assert generator.device == gt.ones(1).device
        assert gt.rand(2, generator=generator).device == generator.device
